//! The keys of the methods that compare feature maps.

use ckd_settings::{choices, section};

use super::{Maps, RowNorm};

section! {
    /// Relaxed centred kernel alignment in its patch form, PCKA: per level and
    /// channel, the similarities between the patches of the student are to equal the teacher's.
    pub struct Rcka with place: Maps {
        /// Weight of the term between patches (intra).
        pub weight: f32 = 10.0,
        /// Weight of the term between pixels of a patch (inter); 0 leaves it out. A weight of its own: in the
        /// authors' code it only switches the term on.
        pub weight_inter: f32 = 0.0,
        /// Height and width of a patch in cells of the level.
        pub patch: usize = 16,
        /// Centre the kernels. The authors' code does not, in spite of the name.
        pub center: bool = false,
        /// What the length of a row does. The authors' detection configurations leave it alone.
        pub row_norm: RowNorm = RowNorm::Off,
    }
}

choices! {
    /// What FCKA takes the alignment of.
    pub enum FckaOf {
        /// The matrices of similarities between samples, rows of length 1: a kernel of kernels (the authors' code).
        Similarities = "similarities",
        /// The features (the figure in their description).
        Features = "features",
    }
}

section! {
    /// The features' part of RCKA, FCKA: the similarities of the samples' whole maps are to equal the teacher's.
    /// With `lcka` it makes RCKA for classifiers. It needs no adapter: channels and sizes may differ.
    pub struct Fcka with place: Maps {
        /// Weight of each level's term.
        pub weight: f32 = 1.0,
        /// What the alignment is taken of.
        pub of: FckaOf = FckaOf::Similarities,
        /// Centre the kernels. The authors' code does not.
        pub center: bool = false,
        /// What the length of a row does.
        pub row_norm: RowNorm = RowNorm::Off,
    }
}

choices! {
    /// What the student's map goes through before it is compared. Trained with the student, dropped afterwards.
    pub enum Regressor {
        /// A 1x1 convolution, batch norm, ReLU.
        ConvBnRelu = "conv_bn_relu",
        /// A 1x1 convolution.
        Conv = "conv",
        /// Nothing: both maps must have the same channels.
        Identity = "identity",
    }
}

section! {
    /// Mean squared difference of feature maps, the student's through a regressor. Maps of different size are
    /// compared at the smaller size.
    pub struct FitNet with place: Maps {
        /// Weight of each level's term.
        pub weight: f32 = 100.0,
        /// What the student's map goes through.
        pub regressor: Regressor = Regressor::ConvBnRelu,
    }
}

section! {
    /// Mean squared difference of pyramid levels through a 1x1 convolution, as DIST's and PCKA's tables add it.
    pub struct Mimic with place: Maps {
        /// Weight of each level's term.
        pub weight: f32 = 1.0,
        /// What the student's map goes through.
        pub regressor: Regressor = Regressor::Conv,
    }
}

section! {
    /// Attention transfer: where the squared activations are, as a unit vector over the cells.
    pub struct At with place: Maps {
        /// Weight of each level's term.
        pub weight: f32 = 1000.0,
    }
}

section! {
    /// Knowledge review: from the deepest level to the finest, the student's maps are fused by trained attention
    /// (ABF) and compared with the teacher's at several scales (HCL).
    pub struct ReviewKd with place: Maps {
        /// Weight of all levels together: 1 to 2 for detectors, 0.6 to 8 on CIFAR-100.
        pub weight: f32 = 1.0,
        /// Width of the fused maps. Default: that of the student's deepest map, at most 512.
        pub width: Option<usize>,
    }
}

section! {
    /// Fine-grained feature imitation: squared differences where anchors overlap an object, the student's map
    /// through a trained 3x3 convolution and ReLU. The authors begin after 400 steps (`from_step`).
    pub struct Fgfi with place: Maps {
        /// Weight in the total loss.
        pub weight: f32 = 0.01,
        /// An anchor counts if its IoU with an object exceeds this share of the object's best.
        pub threshold: f32 = 0.5,
    }
}

section! {
    /// Focal and global distillation: squared differences inside the boxes and outside, weighted by the teacher's
    /// attention (focal), the attentions, and the maps with their context through trained blocks (global).
    /// Published: as below for Faster R-CNN; 1e-3, 5e-4, 5e-4, 5e-6 for RetinaNet.
    pub struct Fgd with place: Maps {
        /// Weight of the differences inside boxes.
        pub weight: f32 = 5e-5,
        /// Weight of those outside.
        pub weight_background: f32 = 2.5e-5,
        /// Weight of the attentions.
        pub weight_attention: f32 = 5e-5,
        /// Weight of the maps with context; 0 leaves the trained blocks out.
        pub weight_context: f32 = 5e-7,
        /// Divides mean activations before the attention's softmax.
        pub temperature: f32 = 0.5,
    }
}

choices! {
    /// What a channel's standard deviation divides by.
    pub enum PkdStd {
        /// n: the loss is 1 - Pearson's r.
        Population = "population",
        /// n - 1: the authors' code.
        Sample = "sample",
    }
}

section! {
    /// Half the mean squared difference of maps whose channels have mean 0 and deviation 1: 1 - Pearson's r.
    pub struct Pkd with place: Maps {
        /// Weight of each level's term: 6 for two-stage detectors, 10 for RetinaNet.
        pub weight: f32 = 6.0,
        /// What the deviation divides by.
        pub std: PkdStd = PkdStd::Population,
    }
}

section! {
    /// Channel-wise distillation: each channel as a distribution over the cells; KL divergence times the squared
    /// temperature.
    pub struct Cwd with place: Maps {
        /// Weight of each level's term.
        pub weight: f32 = 5.0,
        /// Divides the activations.
        pub temperature: f32 = 1.0,
    }
}
