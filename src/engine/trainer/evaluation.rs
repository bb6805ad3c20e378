//! Evaluations of a run, and the files that the last one leaves.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use super::Training;
use crate::config::Document;
use crate::engine::checkpoint::{Best, NetworkBest};
use crate::engine::job::{Job, Row};
use crate::engine::observer::{Eval, Evaluated, Written};
use crate::engine::outcome::Outcome;
use crate::engine::ranks::on_first;
use crate::engine::task::{Measured, Task};
use crate::engine::{EngineError, Result};
use crate::eval::hit_lines;
use crate::fsx;
use crate::report::log::digest;
use crate::report::run_folder::RunFolder;
use crate::weights::file::write_safetensors;

/// An evaluation of the weights, and of their average if the run keeps one.
pub(super) struct Evaluation<M> {
    measured: M,
    average: Option<M>,
}

impl<T: Task> Training<'_, T> {
    /// Measures the student, and the average of its weights, and notes which networks were never better.
    pub(super) fn evaluate(&mut self) -> Result<Evaluation<T::Measured>> {
        let started = Instant::now();
        let evaluation = self.measure()?;
        let took = started.elapsed();
        let measured = &evaluation.measured;
        let step = self.state.step;
        let mut best = Vec::new();
        let score = measured.headline();
        self.state.since_best += 1;
        if self.state.best.is_none_or(|best| score > best.score) {
            self.state.best = Some(Best { step, score });
            self.state.since_best = 0;
            if measured.each().is_empty() {
                best.push((0, score));
            }
        }
        for (network, (score, eval)) in measured.each().into_iter().enumerate() {
            let folder = T::networks(&self.student)[network].folder.clone();
            let own = NetworkBest { folder, best: Best { step, score }, eval };
            match self.state.networks.get_mut(network) {
                Some(known) if score > known.best.score => *known = own,
                Some(_) => continue,
                None => self.state.networks.push(own),
            }
            best.push((network, score));
        }
        let networks = T::networks(&self.student);
        let written = |(network, score): (usize, f64)| Written {
            network: networks[network].clone(),
            metadata: self.metadata(network, score),
        };
        let best: Vec<Written<'_>> = best.into_iter().map(written).collect();
        let picture = match self.around.observers.want_picture() {
            true => self.around.data.evaluation_picture(measured)?,
            false => None,
        };
        let (weights, average) = (evaluated(measured), evaluation.average.as_ref().map(evaluated));
        let eval = Eval {
            step,
            weights: &weights,
            average: average.as_ref(),
            best: &best,
            epoch: self.epoch(),
            took,
            picture: picture.as_ref(),
        };
        self.around.observers.eval(&eval)?;
        Ok(evaluation)
    }

    pub(super) fn measure(&self) -> Result<Evaluation<T::Measured>> {
        let Job { config, distillation, .. } = *self.job;
        let measure = || match self.around.data.measure(
            config,
            &self.student,
            distillation,
            self.around.evaluating(),
        ) {
            Err(EngineError::Stopped) => Err(self.interrupted()),
            measured => measured.map_err(|error| self.with_step(error)),
        };
        self.check_ranks()?;
        let measured = measure()?;
        let average = self.ema.as_ref().map(|ema| ema.in_place(measure)).transpose()?;
        Ok(Evaluation { measured, average })
    }

    /// Writes weights, detections and outcome of the finished run.
    pub(super) fn conclude(&mut self, evaluation: Evaluation<T::Measured>) -> Result<Outcome<Row<T>>> {
        let Evaluation { measured, average } = evaluation;
        for (network, score) in scores(&measured).into_iter().enumerate() {
            on_first(self.around.ranks, || self.write_weights(network, RunFolder::last, score))?;
        }
        if let Some(detections) = measured.detections() {
            on_first(self.around.ranks, || {
                let json = serde_json::to_vec(detections).expect("detections have a JSON form");
                Ok(fsx::write_atomic(&self.job.folder.val_detections(), &json)?)
            })?;
        }
        let hits = measured.hits();
        if !hits.is_empty() {
            on_first(self.around.ranks, || {
                Ok(fsx::write_atomic(&self.job.folder.val_hits(), hit_lines(&hits).as_bytes())?)
            })?;
        }
        if let (Some(ema), Some(average)) = (&self.ema, &average) {
            ema.in_place(|| {
                let mut scores = scores(average).into_iter().enumerate();
                scores.try_for_each(|(network, score)| {
                    on_first(self.around.ranks, || self.write_weights(network, RunFolder::ema, score))
                        .map(drop)
                })
            })?;
        }
        let networks = T::networks(&self.student);
        let outcome = Outcome {
            row: measured.row(&self.job.label, &networks),
            ema: average.map(|average| average.row(&self.job.label, &networks)),
            per_class: measured.per_class(),
            best: self.state.best,
            networks: self.state.networks.clone(),
            steps: self.state.step,
            ended: self.ended(),
            fitted: self.state.total,
            teacher: self.state.teacher.clone(),
            log: on_first(self.around.ranks, || Ok(digest(&self.job.folder.log())?))?.flatten(),
        };
        self.refuse_if_lost()?;
        on_first(self.around.ranks, || outcome.write(&self.job.folder))?;
        // Whoever reads the files next finds them.
        self.agreed(false)?;
        Ok(outcome)
    }

    /// Metadata for the weights of a network whose evaluation gave this `score`.
    pub(super) fn metadata(&self, network: usize, score: f64) -> BTreeMap<String, String> {
        let config = self.job.config;
        let mut provenance = BTreeMap::from([
            ("program".to_owned(), format!("ckd-det {}", env!("CARGO_PKG_VERSION"))),
            ("steps".to_owned(), self.state.step.to_string()),
            (T::HEADLINE.to_owned(), format!("{score:.4}")),
            ("config_blake3".to_owned(), blake3::hash(config.to_toml().as_bytes()).to_hex().to_string()),
        ]);
        if let Some(hash) = &self.state.teacher {
            provenance.insert("teacher_blake3".to_owned(), hash.clone());
        }
        self.around.data.card(config, network, provenance)
    }

    pub(super) fn write_weights(
        &self,
        network: usize,
        file: fn(&RunFolder) -> PathBuf,
        score: f64,
    ) -> Result<()> {
        let metadata = self.metadata(network, score);
        let network = &T::networks(&self.student)[network];
        let path = file(&self.job.folder.network(&network.folder));
        Ok(write_safetensors(&path, &network.tensors()?, &metadata)?)
    }
}

/// The findings of an evaluation as observers are told of them.
pub(super) fn evaluated(measured: &impl Measured) -> Evaluated {
    Evaluated {
        headline: measured.headline(),
        told: measured.told(),
        logged: measured.logged(),
        written: measured.written(),
    }
}

/// The headline of each network.
pub(super) fn scores(measured: &impl Measured) -> Vec<f64> {
    match measured.each() {
        each if each.is_empty() => vec![measured.headline()],
        each => each.into_iter().map(|(score, _)| score).collect(),
    }
}
