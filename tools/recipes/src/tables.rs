//! The tables: networks, pairs, and the settings that the authors published for them.

/// A network: its short name in files, its name, what it is called in text, RepDistiller's folder of its weights.
pub(crate) struct Named {
    pub(crate) short: &'static str,
    pub(crate) network: &'static str,
    pub(crate) title: &'static str,
    pub(crate) weights: &'static str,
}

const fn named(
    short: &'static str,
    network: &'static str,
    title: &'static str,
    weights: &'static str,
) -> Named {
    Named { short, network, title, weights }
}

pub(crate) const CIFAR: [Named; 15] = [
    named("r20", "resnet20", "ResNet-20", "resnet20"),
    named("r32", "resnet32", "ResNet-32", "resnet32"),
    named("r56", "resnet56", "ResNet-56", "resnet56"),
    named("r110", "resnet110", "ResNet-110", "resnet110"),
    named("r8x4", "resnet8x4", "ResNet-8x4", "resnet8x4"),
    named("r32x4", "resnet32x4", "ResNet-32x4", "resnet32x4"),
    named("r50", "cifar_resnet50", "ResNet-50", "ResNet50"),
    named("w16_2", "wrn_16_2", "WRN-16-2", "wrn_16_2"),
    named("w40_1", "wrn_40_1", "WRN-40-1", "wrn_40_1"),
    named("w40_2", "wrn_40_2", "WRN-40-2", "wrn_40_2"),
    named("v8", "vgg8", "VGG-8", "vgg8"),
    named("v13", "vgg13", "VGG-13", "vgg13"),
    named("mv2", "cifar_mobilenet_v2", "MobileNetV2", "MobileNetV2"),
    named("sv1", "shufflenet_v1", "ShuffleNetV1", "ShuffleV1"),
    named("sv2", "shufflenet_v2", "ShuffleNetV2", "ShuffleV2"),
];

/// Teacher, student, weight, temperature, batch and learning rate of the released CKD configurations for CIFAR-100.
pub(crate) const CKD: [(&str, &str, f64, f64, u32, f64); 11] = [
    ("r56", "r20", 10.0, 1.0, 64, 0.05),
    ("r110", "r32", 10.0, 1.0, 64, 0.05),
    ("r32x4", "r8x4", 100.0, 1.0, 64, 0.05),
    ("w40_2", "w16_2", 100.0, 1.0, 64, 0.05),
    ("w40_2", "w40_1", 50.0, 2.0, 32, 0.05),
    ("v13", "v8", 100.0, 1.0, 64, 0.05),
    ("r32x4", "sv1", 100.0, 1.0, 32, 0.01),
    ("r32x4", "sv2", 100.0, 1.0, 64, 0.01),
    ("w40_2", "sv1", 100.0, 1.0, 32, 0.01),
    ("v13", "mv2", 50.0, 2.0, 32, 0.01),
    ("r50", "mv2", 100.0, 1.0, 32, 0.01),
];

/// The pairs of RepDistiller's tables.
pub(crate) const PAIRS: [(&str, &str); 13] = [
    ("w40_2", "w16_2"),
    ("w40_2", "w40_1"),
    ("r56", "r20"),
    ("r110", "r20"),
    ("r110", "r32"),
    ("r32x4", "r8x4"),
    ("v13", "v8"),
    ("v13", "mv2"),
    ("r50", "mv2"),
    ("r50", "v8"),
    ("r32x4", "sv1"),
    ("r32x4", "sv2"),
    ("w40_2", "sv1"),
];

/// The methods whose settings are the same for every pair, at 240 epochs: the word in the file's name, what it is called,
/// the weight of the cross-entropy, and the entries.
pub(crate) const METHODS: [(&str, &str, f64, &str); 5] = [
    ("kd", "KD", 0.1, "method = \"kd\"\nat = \"logits\"\nweight = 0.9\ntemperature = 4.0\n"),
    ("icd", "ICD", 1.0, "method = \"icd\"\nat = \"embedding\"\nweight = 1.0\n"),
    (
        "icd_kd",
        "ICD and KD",
        1.0,
        "method = \"icd\"\nat = \"embedding\"\nweight = 1.0\n\n[[distill]]\nmethod = \"kd\"\nat = \"logits\"\nweight = 1.0\n\
         temperature = 4.0\n",
    ),
    ("crd", "CRD", 1.0, "method = \"crd\"\nat = \"embedding\"\nweight = 0.8\n"),
    (
        "dist",
        "DIST",
        1.0,
        "method = \"dist\"\nat = \"logits\"\nweight = 2.0\nweight_intra = 2.0\ntemperature = 4.0\n",
    ),
];

/// KD of standardised logits: temperature and weight of a pair, those of its authors' logs.
pub(crate) fn standardised(pair: (&str, &str)) -> (f64, f64) {
    match pair {
        ("v13", "v8") => (3.0, 9.0),
        ("r110", "r20") => (4.0, 12.0),
        ("r50", "mv2") => (3.0, 1.0),
        _ => (2.0, 9.0),
    }
}

/// The weight of DKD's NCKD: 2 for these, 6 for the next, 8 for all others.
pub(crate) const DKD_2: [(&str, &str); 2] = [("r56", "r20"), ("r110", "r32")];
pub(crate) const DKD_6: [(&str, &str); 4] =
    [("v13", "v8"), ("v13", "mv2"), ("w40_2", "w16_2"), ("w40_2", "w40_1")];
/// DKD and knowledge review warm up over 20 epochs of 782 steps of 64 images.
pub(crate) const WARMUP_STEPS: u32 = 20 * 782;

/// The pairs of RCKA's table.
pub(crate) const RCKA: [(&str, &str); 9] = [
    ("r110", "r20"),
    ("r110", "r32"),
    ("w40_2", "w40_1"),
    ("w40_2", "w16_2"),
    ("r32x4", "r8x4"),
    ("v13", "v8"),
    ("w40_2", "sv1"),
    ("r32x4", "sv1"),
    ("v13", "mv2"),
];

/// The weights of knowledge review, as its authors have them.
pub(crate) const REVIEW: [(&str, &str, f64); 8] = [
    ("w40_2", "w16_2", 5.0),
    ("w40_2", "w40_1", 5.0),
    ("w40_2", "sv1", 5.0),
    ("r32x4", "r8x4", 5.0),
    ("r32x4", "sv1", 5.0),
    ("r32x4", "sv2", 8.0),
    ("r56", "r20", 0.6),
    ("r110", "r32", 1.0),
];

pub(crate) const IMAGENET: [Named; 4] = [
    named("r18", "resnet18", "ResNet-18", ""),
    named("r34", "resnet34", "ResNet-34", "resnet34-b627a593.pth"),
    named("r50", "resnet50", "ResNet-50", "resnet50-0676ba61.pth"),
    named("mv1", "mobilenet_v1", "MobileNetV1", ""),
];

/// Pairs of the released CKD configurations for ImageNet, with their weight.
pub(crate) const CKD_IMAGENET: [(&str, &str, f64); 2] = [("r34", "r18", 10.0), ("r50", "mv1", 10.0)];

/// Networks of CIFAR-100 whose equal copies learn from each other: by MCL two and four, by L-MCL two. Their ResNet-110 has
/// bottlenecks.
pub(crate) const COHORT: [Named; 6] = [
    named("r32", "resnet32", "ResNet-32", ""),
    named("r56", "resnet56", "ResNet-56", ""),
    named("r110", "resnet110_bottleneck", "ResNet-110 of bottlenecks", ""),
    named("w16_2", "wrn_16_2", "WRN-16-2", ""),
    named("w40_2", "wrn_40_2", "WRN-40-2", ""),
    named("sv2", "shufflenet_v2", "ShuffleNetV2", ""),
];
/// Different networks that learn from each other by L-MCL.
pub(crate) const LMCL: [(&str, &str); 6] = [
    ("r32", "r110"),
    ("r56", "r110"),
    ("w16_2", "w40_2"),
    ("r56", "w40_2"),
    ("sv2", "r110"),
    ("sv2", "w40_2"),
];
/// Networks of ImageNet: two and four equal ones by MCL with a memory, pairs by L-MCL.
pub(crate) const MCL_IMAGENET: [&str; 2] = ["r18", "r34"];
pub(crate) const LMCL_IMAGENET: [(&str, &str); 3] = [("r34", "r34"), ("r50", "r50"), ("r18", "r50")];
