//! Networks in other candle programs give what candle's own layers give with the same weights.

use std::collections::{BTreeMap, HashMap};

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::{
    Activation, BatchNorm, Conv2d, Conv2dConfig, Module, ModuleT, VarBuilder, VarMap, batch_norm,
    conv2d_no_bias, linear,
};
use ckd_detectors::backbone;
use ckd_detectors::candle_module::Trunk;
use ckd_detectors::classifier::{Classifier, ClassifierConfig};
use ckd_detectors::images::{Images, Normalization};
use ckd_detectors::param::Builder;
use ckd_detectors::{Detector, Error};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const CLASSES: usize = 10;

/// A convolution and its norm, of candle's own layers.
struct Conv(Conv2d, BatchNorm);

impl Conv {
    fn new(vars: &VarBuilder, (conv, norm): (&str, &str), shape: [usize; 4]) -> Result<Self> {
        let [inputs, outputs, kernel, stride] = shape;
        let config = Conv2dConfig { stride, padding: kernel / 2, ..Conv2dConfig::default() };
        let conv = conv2d_no_bias(inputs, outputs, kernel, config, vars.pp(conv))?;
        Ok(Self(conv, batch_norm(outputs, 1e-5, vars.pp(norm))?))
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.1.forward_t(&self.0.forward(x)?, false)
    }
}

fn relu(x: &Tensor) -> Result<Tensor> {
    Activation::Relu.forward(x)
}

/// The largest magnitude.
fn largest(x: &Tensor) -> f32 {
    x.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().fold(0f32, |most, value| most.max(value.abs()))
}

/// ResNet-8 for 32x32 pixels, written with candle's own layers.
fn resnet8(vars: &VarBuilder, x: &Tensor) -> Result<Tensor> {
    let mut x = relu(&Conv::new(vars, ("conv1", "bn1"), [3, 16, 3, 1])?.forward(x)?)?;
    for (stage, [inputs, outputs, stride]) in [[16, 16, 1], [16, 32, 2], [32, 64, 2]].into_iter().enumerate()
    {
        let block = vars.pp(format!("layer{}.0", stage + 1));
        let y = relu(&Conv::new(&block, ("conv1", "bn1"), [inputs, outputs, 3, stride])?.forward(&x)?)?;
        let y = Conv::new(&block, ("conv2", "bn2"), [outputs, outputs, 3, 1])?.forward(&y)?;
        if stride == 2 {
            x = Conv::new(&block.pp("downsample"), ("0", "1"), [inputs, outputs, 1, 2])?.forward(&x)?;
        }
        x = relu(&(x + y)?)?;
    }
    linear(64, CLASSES, vars.pp("fc"))?.forward(&x.mean((D::Minus1, D::Minus2))?)
}

fn config() -> ClassifierConfig {
    let normalization = Normalization { mean: [0.4, 0.5, 0.6], std: [0.25, 0.5, 0.2] };
    ClassifierConfig { architecture: "resnet8".parse().unwrap(), classes: CLASSES, normalization }
}

/// Tensors of the given names and shapes, none of them at its initial value.
fn random_like(tensors: BTreeMap<String, Tensor>) -> HashMap<String, Tensor> {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let mut draw = |name: &str, tensor: Tensor| {
        // Variances are positive.
        let (low, high) = if name.ends_with("running_var") { (0.5, 2.0) } else { (-0.3, 0.3) };
        let values: Vec<f32> = (0..tensor.elem_count()).map(|_| random.random_range(low..high)).collect();
        Tensor::from_vec(values, tensor.dims(), &Device::Cpu).unwrap()
    };
    tensors.into_iter().map(|(name, tensor)| (name.clone(), draw(&name, tensor))).collect()
}

fn pixels(images: usize, height: usize, width: usize) -> Tensor {
    let mut random = ChaCha8Rng::seed_from_u64(4);
    let values: Vec<f32> = (0..images * 3 * height * width).map(|_| random.random()).collect();
    Tensor::from_vec(values, (images, 3, height, width), &Device::Cpu).unwrap()
}

fn most_apart(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    largest(&(a - b).unwrap())
}

#[test]
fn a_classifier_from_a_var_builder_gives_what_candles_own_layers_give() {
    let shapes = Classifier::new(Builder::new(0, &Device::Cpu), &config()).unwrap().params().snapshot();
    let vars = VarBuilder::from_tensors(random_like(shapes.unwrap()), DType::F32, &Device::Cpu);
    let classifier = Classifier::from_vars(&config(), &vars).unwrap();
    let images = pixels(2, 32, 32);
    let Normalization { mean, std } = config().normalization;
    let [mean, std] =
        [mean, std].map(|values| Tensor::new(&values, &Device::Cpu).unwrap().reshape((1, 3, 1, 1)));
    let normalized = images.broadcast_sub(&mean.unwrap()).unwrap().broadcast_div(&std.unwrap()).unwrap();
    let theirs = resnet8(&vars, &normalized).unwrap();
    let ours = Module::forward(&classifier, &images).unwrap();
    let largest = largest(&theirs);
    assert!(largest > 0.1, "logits of {largest} show nothing");
    // Winograd's form of the 3x3 convolutions rounds otherwise than candle's.
    let apart = most_apart(&ours, &theirs);
    assert!(apart <= 1e-4 * largest, "{apart} of {largest}");
    // The same in a chain of candle's modules, whatever `train` is.
    let chained = images.apply_t(&classifier, true).unwrap();
    assert_eq!(most_apart(&chained, &ours), 0.0);
}

#[test]
fn a_prefix_of_a_var_builder_is_a_network_within_a_larger_one() {
    let shapes = Classifier::new(Builder::new(0, &Device::Cpu), &config()).unwrap().params().snapshot();
    let tensors = random_like(shapes.unwrap());
    let inner = tensors.iter().map(|(name, tensor)| (format!("model.{name}"), tensor.clone())).collect();
    let vars = VarBuilder::from_tensors(inner, DType::F32, &Device::Cpu);
    let classifier = Classifier::from_vars(&config(), &vars.pp("model")).unwrap();
    for (name, tensor) in classifier.params().snapshot().unwrap() {
        assert_eq!(most_apart(&tensor, &tensors[&name]), 0.0, "{name}");
    }
}

#[test]
fn what_a_var_builder_lacks_is_named_and_never_made_up() {
    let empty = VarMap::new();
    let vars = VarBuilder::from_varmap(&empty, DType::F32, &Device::Cpu);
    let Err(Error::MissingParameters { names }) = Classifier::from_vars(&config(), &vars) else {
        panic!("an empty VarMap is no network")
    };
    assert!(names.contains(&"conv1.weight".to_owned()) && names.contains(&"fc.bias".to_owned()), "{names:?}");
    assert!(empty.all_vars().is_empty());
}

#[test]
fn a_trunk_gives_its_maps_and_as_a_module_the_last_one() {
    let config = crate::support::backbone("resnet18").with_stem_channels(8);
    let builder = Builder::new(1, &Device::Cpu);
    backbone::Trunk::new(&builder, &config).unwrap();
    let tensors = random_like(builder.finish().snapshot().unwrap());
    let vars = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let trunk = Trunk::from_vars(config, &vars).unwrap();
    let x = pixels(1, 64, 96);
    let maps = trunk.maps(&x).unwrap();
    let shapes: Vec<&[usize]> = maps.iter().map(Tensor::dims).collect();
    assert_eq!(shapes, [[1, 8, 16, 24], [1, 16, 8, 12], [1, 32, 4, 6], [1, 64, 2, 3]]);
    assert_eq!(most_apart(&trunk.forward(&x).unwrap(), &maps[3]), 0.0);
}

#[test]
fn a_detectors_rows_are_its_detections() {
    crate::support::each_detector(|name, config| {
        let own = crate::support::build(7, config.clone())?;
        let tensors = own.params().snapshot()?.into_iter().collect();
        let vars = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let detector = Detector::from_vars(&config, &vars)?;
        let images = pixels(2, 64, 96);
        let found = own.detect(&Images { pixels: images.clone(), sizes: vec![(64, 96); 2] })?;
        let rows = detector.forward(&images)?;
        let expected: Vec<Vec<f32>> = found
            .iter()
            .enumerate()
            .flat_map(|(image, found)| {
                let boxes = found.boxes.iter().zip(&found.scores).zip(&found.labels);
                boxes.map(move |((b, &score), &label)| {
                    vec![image as f32, b[0], b[1], b[2], b[3], score, label as f32]
                })
            })
            .collect();
        assert_eq!(rows.dims(), [expected.len(), 7], "{name}");
        assert_eq!(rows.to_vec2::<f32>()?, expected, "{name}");
        Ok(())
    });
}
