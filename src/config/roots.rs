//! The four kinds of configuration: their tasks, their paths, and the configuration that trains the teacher.

use ckd_settings::Node;

use super::error::ConfigError;
use super::load::{Loaded, Root};
use super::lookup::ConfigSource;
use super::schema::{ClassifyConfig, CohortConfig, Config, DataKind, PretrainConfig, Task};
use super::teacher;

impl Root for Config {
    const TASKS: &'static [Task] = &[Task::Detect];

    fn write_out_paths(&mut self, loaded: &Loaded<Self>) {
        // A synthetic set is made where the program runs, whatever lies beside the configuration.
        if self.data.kind != DataKind::Synth {
            loaded.write_out(&mut self.data.root);
        }
        if let Some(unlabelled) = &mut self.data.unlabelled {
            loaded.write_out(&mut unlabelled.annotations);
            loaded.write_out_given(&mut unlabelled.images);
        }
        loaded.write_out_given(&mut self.student.init);
        if let Some(teacher) = &mut self.teacher {
            loaded.write_out_given(&mut teacher.weights);
            let own = loaded.teacher_experiment.as_deref().map(|own| own.config.run.name.as_str());
            loaded.write_out_teacher(&mut teacher.train, own);
        }
    }

    fn teacher_experiment(
        &self,
        root: &Node,
        trail: &mut Vec<ConfigSource>,
    ) -> Result<Option<Loaded<Self>>, ConfigError> {
        teacher::of_detectors(self, root, trail)
    }
}

impl Root for ClassifyConfig {
    const TASKS: &'static [Task] = &[Task::Classify, Task::Probe];

    fn write_out_paths(&mut self, loaded: &Loaded<Self>) {
        loaded.write_out(&mut self.labelled.data.root);
        loaded.write_out_given(&mut self.labelled.data.class_index);
        loaded.write_out_given(&mut self.labelled.data.held_out);
        loaded.write_out_given(&mut self.student.init);
        if let Some(teacher) = &mut self.teacher {
            loaded.write_out_given(&mut teacher.weights);
            let own = loaded.teacher_experiment.as_deref().map(|own| own.config.run.name.as_str());
            loaded.write_out_teacher(&mut teacher.train, own);
        }
    }

    fn teacher_experiment(
        &self,
        root: &Node,
        trail: &mut Vec<ConfigSource>,
    ) -> Result<Option<Loaded<Self>>, ConfigError> {
        teacher::of_classifiers(self, root, trail)
    }
}

impl Root for CohortConfig {
    const TASKS: &'static [Task] = &[Task::Cohort];

    fn write_out_paths(&mut self, loaded: &Loaded<Self>) {
        loaded.write_out(&mut self.labelled.data.root);
        loaded.write_out_given(&mut self.labelled.data.class_index);
        loaded.write_out_given(&mut self.labelled.data.held_out);
    }

    fn teacher_experiment(
        &self,
        _root: &Node,
        _trail: &mut Vec<ConfigSource>,
    ) -> Result<Option<Loaded<Self>>, ConfigError> {
        Ok(None)
    }
}

impl Root for PretrainConfig {
    const TASKS: &'static [Task] = &[Task::Pretrain];

    fn write_out_paths(&mut self, loaded: &Loaded<Self>) {
        loaded.write_out(&mut self.data.root);
        loaded.write_out_given(&mut self.student.init);
        loaded.write_out_given(&mut self.teacher.weights);
    }

    fn teacher_experiment(
        &self,
        _root: &Node,
        _trail: &mut Vec<ConfigSource>,
    ) -> Result<Option<Loaded<Self>>, ConfigError> {
        Ok(None)
    }
}
