//! The keys of the methods that compare rows: logits and pooled features.

use ckd_settings::{choices, section};

use super::Rows;

choices! {
    /// What a row is contrasted with.
    pub enum Negatives {
        /// Teacher row against the student's other rows (the authors' code).
        Cross = "cross",
        /// Student row against the student's other rows (the paper's summary).
        Student = "student",
    }
}

section! {
    /// Contrastive knowledge distillation: each row of the student's logits must
    /// be closer to the teacher's row of the same sample than the student's other rows are.
    pub struct Ckd with place: Rows {
        /// Weight in the total loss: 0.1 for the authors' detectors, 10 to 100 on CIFAR-100.
        pub weight: f32 = 0.1,
        /// Divides the cosines.
        pub temperature: f32 = 1.0,
        /// What a row is contrasted with.
        pub negatives: Negatives = Negatives::Cross,
    }
}

choices! {
    /// What the length of a row does to the similarities of rows.
    pub enum RowNorm {
        /// x_i·x_j.
        Off = "off",
        /// x_i·x_j / |x_i|, not symmetric (the authors' choice for logits).
        Rows = "rows",
        /// x_i·x_j / (|x_i| |x_j|).
        Cosine = "cosine",
    }
}

section! {
    /// The logits' part of RCKA, LCKA: the similarities of the samples (intra), and those of the classes (inter),
    /// are to equal the teacher's.
    pub struct Lcka with place: Rows {
        /// Weight of the term between samples (intra).
        pub weight: f32 = 15.0,
        /// Weight of the term between classes (inter); 0 leaves it out.
        pub weight_inter: f32 = 15.0,
        /// Centre the kernels. The authors' code does not.
        pub center: bool = false,
        /// What the length of a row does.
        pub row_norm: RowNorm = RowNorm::Rows,
    }
}

choices! {
    /// The direction of ICD's invariance term.
    pub enum IcdDirection {
        /// KL(p(student | teacher) || p(teacher | student)): the authors' code.
        TeacherAnchors = "teacher_anchors",
        /// KL(p(teacher | student) || p(student | teacher)).
        StudentAnchors = "student_anchors",
    }
}

choices! {
    /// Whether ICD's scale is trained.
    pub enum IcdScale {
        /// theta and b are trained (the authors' CIFAR code). b has no gradient: a shift changes nothing.
        Trained = "trained",
        /// They stay as they are (the authors' ImageNet code).
        Fixed = "fixed",
    }
}

section! {
    /// Invariant consistency distillation: through a trained linear head on each side, the teacher's row of a sample
    /// must be found among all of the batch (contrast), equally well from both sides (invariance).
    pub struct Icd with place: Rows {
        /// Weight of contrast + alpha invariance.
        pub weight: f32 = 1.0,
        /// Weight of the invariance term within it.
        pub alpha: f32 = 0.5,
        /// Width of the heads.
        pub width: usize = 128,
        /// Cosines are multiplied with exp(theta), at most 10: where theta starts.
        pub theta: f32 = 1.0,
        /// Whether theta and b are trained.
        pub scale: IcdScale = IcdScale::Trained,
        /// The direction of the invariance term.
        pub direction: IcdDirection = IcdDirection::TeacherAnchors,
    }
}

section! {
    /// KL divergence of softened class probabilities, times the squared temperature.
    pub struct Kd with place: Rows {
        /// Weight in the total loss. No detector has a published one.
        pub weight: f32 = 1.0,
        /// Divides the logits: 4 on CIFAR, 1 on ImageNet and for regions.
        pub temperature: f32 = 1.0,
    }
}

section! {
    /// Decoupled knowledge distillation: the probability of the true class (TCKD) and the distribution over
    /// the others (NCKD), weighted apart. At roi_logits the true class of a region may be the background.
    pub struct Dkd with place: Rows {
        /// Weight of alpha TCKD + beta NCKD.
        pub weight: f32 = 1.0,
        /// Weight of TCKD within it.
        pub alpha: f32 = 1.0,
        /// Weight of NCKD within it: 0.25 for the authors' detectors, 2 to 8 on CIFAR-100, 0.5 to 2 on ImageNet.
        pub beta: f32 = 0.25,
        /// Divides the logits: 4 on CIFAR, 1 elsewhere.
        pub temperature: f32 = 1.0,
    }
}

section! {
    /// Correlation instead of equality: of each sample's class probabilities (inter) and of each class over the
    /// samples (intra). At anchor_logits probabilities are sigmoids, elsewhere softmaxes.
    pub struct Dist with place: Rows {
        /// Weight of the term over each sample's classes (inter): 1 for detectors, 2 on CIFAR.
        pub weight: f32 = 1.0,
        /// Weight of the term over each class's samples (intra); 0 leaves it out.
        pub weight_intra: f32 = 1.0,
        /// Divides the logits; its square multiplies the terms. 4 on CIFAR.
        pub temperature: f32 = 1.0,
    }
}

section! {
    /// Relations between the samples of a batch: distances, relative to their mean, and angles of triples.
    pub struct Rkd with place: Rows {
        /// Weight of the distances.
        pub weight: f32 = 25.0,
        /// Weight of the angles; 0 leaves them out. Their cost grows with the cube of the rows.
        pub weight_angle: f32 = 50.0,
    }
}

section! {
    /// Contrast with a memory of all training samples, in both directions, through a trained linear head on each
    /// side. Negatives are of other classes.
    pub struct Crd with place: Rows {
        /// Weight of both directions together.
        pub weight: f32 = 0.8,
        /// Negatives drawn for each sample.
        pub negatives: usize = 16384,
        /// Divides the cosines.
        pub temperature: f32 = 0.07,
        /// Share of the old memory when a sample is seen again.
        pub momentum: f32 = 0.5,
        /// Width of the heads and of the memory.
        pub width: usize = 128,
    }
}
