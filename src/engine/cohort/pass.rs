//! One batch of labelled images: every network looks once, all learn.

use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use ckd_detectors::classifier::smoothed_cross_entropy;
use ckd_detectors::nn::Mode;
use ckd_kernels::Value;
use ckd_kernels::deferred::{defer, exactly};
use rand::RngCore;

use super::model::{Cohort, Layer, folder};
use super::sets::CohortSets;
use crate::config::CohortConfig;
use crate::data::LabelledBatch;
use crate::distill::mcl::{Cohort as CohortLosses, CohortMethod, Likenesses, layer_weights};
use crate::distill::parts::of_all;
use crate::distill::{DistillError, Parts, Term, kd, remember};
use crate::engine::Result;
use crate::engine::classify::to_device;
use crate::engine::pass::{GradientSink, Pass, walk_back};
use crate::engine::task::Setting;

/// A scalar of the loss: name, value, weight.
type Part = (String, Value, f64);

/// Runs all networks on one batch at `step` and gives the gradients to `gradients`. The memories take in the batch once all parts of the
/// update are computed.
pub(super) fn training_pass(
    setting: &Setting<'_, CohortSets>,
    mut batch: LabelledBatch,
    step: u64,
    gradients: &mut GradientSink<'_>,
) -> Result<Pass> {
    let started = Instant::now();
    let images = to_device(&mut batch, setting.device)?;
    let (config, cohort, labels) = (setting.config, setting.student, &batch.labels);
    let drawn = drawn(setting, &batch)?;
    let layers = cohort.layers(&images, Mode::Train)?;
    drop(images);
    let Contrasted { likenesses, labels: contrasted, weights } =
        contrasted(setting, &layers, labels, &drawn)?;
    if setting.parts.is_some_and(Parts::is_for_rows_alone) {
        return Ok(Pass::for_rows_alone());
    }
    let mut terms = labelled(setting, &layers, labels)?;
    let learned = match config.cohort.method {
        CohortMethod::Mcl => {
            terms.extend(from_the_mean(config, &layers)?);
            likenesses.mcl(&contrasted, &config.cohort.pair())?
        }
        CohortMethod::LMcl => {
            terms.extend(aggregated(setting, &layers, labels)?);
            likenesses.layer_wise(&contrasted, &weights, &config.cohort.pair(), None)?
        }
    };
    terms.extend(learned.into_iter().map(|Term { name, value, weight }| (name, value, weight)));
    let last: Vec<Tensor> =
        layers.iter().filter_map(|own| Some(own.last()?.embedding.tensor().clone())).collect();
    drop((layers, likenesses, weights));
    let pass = walk_back(terms, step, started, Duration::ZERO, gradients)?;
    if let Some(bank) = &config.cohort.bank {
        for (embedding, memory) in last.iter().zip(cohort.memories()) {
            let (memory, momentum) = (memory.clone(), bank.momentum);
            let samples = Tensor::new(batch.indices.as_slice(), &Device::Cpu)?;
            // In another process, both will be where the first one is here.
            defer(vec![embedding.clone(), samples], move |tensors| {
                let [embedding, samples] = exactly(tensors)?;
                remember(&memory, &samples.to_vec1::<u32>()?, embedding, momentum).map_err(|error| {
                    ckd_kernels::Error::Invalid { operation: "remember", reason: error.to_string() }
                })
            })?;
        }
    }
    Ok(pass)
}

/// Images that are contrasted with each other: those of the batch, or of all parts of the update.
struct Contrasted {
    likenesses: Likenesses,
    labels: Vec<u32>,
    /// L-MCL's weights of pairs of layers, as constants.
    weights: Vec<Value>,
}

/// The images that those of a batch are contrasted with, themselves included.
fn contrasted(
    setting: &Setting<'_, CohortSets>,
    layers: &[Vec<Layer>],
    labels: &[u32],
    drawn: &[u32],
) -> Result<Contrasted> {
    let (config, cohort) = (setting.config, setting.student);
    let of_batch = |likenesses: &Likenesses| -> Result<Vec<Value>> {
        match config.cohort.method {
            CohortMethod::Mcl => Ok(Vec::new()),
            CohortMethod::LMcl => {
                Ok(weights(cohort, layers, likenesses)?.iter().map(Value::detach).collect())
            }
        }
    };
    let Some(parts) = setting.parts else {
        let likenesses = likenesses(config, cohort, layers, drawn)?;
        let weights = of_batch(&likenesses)?;
        return Ok(Contrasted { likenesses, labels: labels.to_vec(), weights });
    };
    let mut embeddings = embeddings(layers);
    for (network, own) in embeddings.iter_mut().enumerate() {
        for (layer, embedding) in own.iter_mut().enumerate() {
            let name = format!("embedding/{network}/{layer}");
            *embedding = of_all(parts, &name, embedding).map_err(DistillError::from)?;
        }
    }
    let likenesses = Likenesses::of(&embeddings, config.cohort.tau)?;
    let own = of_batch(&likenesses)?.into_iter().enumerate();
    let weights = own.map(|(pair, weight)| of_all(parts, &format!("weight/{pair}"), &weight));
    let weights = weights.collect::<std::result::Result<_, _>>().map_err(DistillError::from)?;
    let mut all = Vec::new();
    let all_labels = parts.rows("labels", &Tensor::new(labels, &Device::Cpu)?);
    for part in all_labels.map_err(DistillError::from)?.parts {
        all.extend(part.to_vec1::<u32>()?);
    }
    Ok(Contrasted { likenesses, labels: all, weights })
}

/// The rows of the memories that the images of `batch` are compared with, the same whenever it is asked in a step; empty
/// without memories.
pub(super) fn drawn(setting: &Setting<'_, CohortSets>, batch: &LabelledBatch) -> Result<Vec<u32>> {
    match (&setting.config.cohort.bank, setting.student.by_class()) {
        (Some(bank), Some(samples)) => {
            Ok(samples.partners(&batch.indices, bank.negatives, setting.random().next_u64())?)
        }
        _ => Ok(Vec::new()),
    }
}

/// Similarities between the images and the memory-bank rows `drawn`, or between the images, by layer.
pub(super) fn likenesses(
    config: &CohortConfig,
    cohort: &Cohort,
    layers: &[Vec<Layer>],
    drawn: &[u32],
) -> Result<Likenesses> {
    let embeddings = embeddings(layers);
    match config.cohort.bank {
        None => Ok(Likenesses::of(&embeddings, config.cohort.tau)?),
        Some(_) => {
            let memories: Vec<&Tensor> = cohort.memories().collect();
            Ok(Likenesses::to_memories(&embeddings, &memories, drawn, config.cohort.tau)?)
        }
    }
}

/// The embeddings by network and layer.
fn embeddings(layers: &[Vec<Layer>]) -> Vec<Vec<Value>> {
    layers.iter().map(|own| own.iter().map(|layer| layer.embedding.clone()).collect()).collect()
}

/// The cross-entropies of all layers with the labels.
fn labelled(setting: &Setting<'_, CohortSets>, layers: &[Vec<Layer>], labels: &[u32]) -> Result<Vec<Part>> {
    let mut terms = Vec::new();
    for (index, own) in layers.iter().enumerate() {
        for (stage, layer) in (1..).zip(own) {
            let place = match stage == own.len() {
                true => folder(index),
                false => format!("{}/stage{stage}", folder(index)),
            };
            let loss =
                smoothed_cross_entropy(&layer.logits, labels, setting.config.labelled.label_smoothing)?;
            terms.push((format!("loss_classifier/{place}"), loss, setting.config.labelled.loss_weight));
        }
    }
    Ok(terms)
}

/// Loss of MCL's networks against the mean of their logits.
fn from_the_mean(config: &CohortConfig, layers: &[Vec<Layer>]) -> Result<Vec<Part>> {
    let CohortLosses { logit_kd, temperature, .. } = config.cohort;
    let logits: Vec<&Value> = layers.iter().filter_map(|own| Some(&own.last()?.logits)).collect();
    if logit_kd == 0.0 || logits.is_empty() {
        return Ok(Vec::new());
    }
    let all: Vec<&Tensor> = logits.iter().map(|logits| logits.tensor()).collect();
    let mean = Tensor::stack(&all, 0)?.mean(0)?;
    let of = |(index, own): (usize, &&Value)| {
        Ok((format!("kd/mean/{}", folder(index)), kd(&mean, own, temperature)?, logit_kd))
    };
    logits.iter().enumerate().map(of).collect()
}

/// Losses of L-MCL's aggregated teachers against the labels, and of the networks against these teachers.
fn aggregated(setting: &Setting<'_, CohortSets>, layers: &[Vec<Layer>], labels: &[u32]) -> Result<Vec<Part>> {
    let config = setting.config;
    let mut teachers = Vec::new();
    for (peer, own) in setting.student.peers().iter().zip(layers) {
        teachers.extend(peer.aggregated(own)?);
    }
    let mut terms = Vec::new();
    for (index, teacher) in teachers.iter().enumerate() {
        let loss = smoothed_cross_entropy(teacher, labels, config.labelled.label_smoothing)?;
        terms.push((format!("loss_aggregated/{}", folder(index)), loss, config.labelled.loss_weight));
    }
    for (index, own) in layers.iter().enumerate() {
        let Some(last) = own.last() else { continue };
        for (other, teacher) in teachers.iter().enumerate() {
            let name = format!("kd/{}/{}", folder(other), folder(index));
            let temperature = config.cohort.layers.kd_temperature;
            terms.push((name, kd(teacher.tensor(), &last.logits, temperature)?, 1.0));
        }
    }
    Ok(terms)
}

/// The weights of all pairs of layers, in their order.
pub(super) fn weights(cohort: &Cohort, layers: &[Vec<Layer>], likenesses: &Likenesses) -> Result<Vec<Value>> {
    let matched: Vec<Vec<Value>> =
        cohort.peers().iter().zip(layers).map(|(peer, own)| peer.matched(own)).collect::<Result<_>>()?;
    let weight = |((network, layer), (other, other_layer)): ((usize, usize), (usize, usize))| {
        Ok(layer_weights(&matched[network][layer], &matched[other][other_layer])?)
    };
    likenesses.pairs().map(weight).collect()
}
