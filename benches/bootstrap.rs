//! Time of an interval over images, which `compare` takes, and of an evaluation with its analysis by kind of error, which a training
//! takes: detectors on 5,000 images, COCO's number.
//!
//! ```text
//! cargo bench --bench bootstrap
//! ```
//!
//! 80 classes, 7 objects and 100 detections an image, made up. Printed are the wall times of the evaluation and the analysis of one
//! detector, of matching both, and of all resamples.

#![allow(clippy::print_stdout)]

use std::time::Instant;

use anyhow::{Context, Result};
use ckd_det::data::Instances;
use ckd_det::eval::{Detection, GroundTruth, Options, RESAMPLES, analyse, bootstrap, evaluate, matches};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const IMAGES: usize = 5000;
const CLASSES: u32 = 80;

fn main() -> Result<()> {
    let mut instances = Instances::of_classes((0..CLASSES).map(|class| format!("class {class}")));
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut found = [Vec::new(), Vec::new()];
    for image in 0..IMAGES {
        let boxes: Vec<(u32, [f64; 4])> = (0..7)
            .map(|_| {
                let [x, y, side]: [f64; 3] = random.random();
                (random.random_range(0..CLASSES), [500.0 * x, 400.0 * y, 20.0 + 80.0 * side, 60.0])
            })
            .collect();
        let image_id = instances.push_image(&format!("{image}.jpg"), (640, 480), boxes.clone());
        for detections in &mut found {
            for detection in 0..100 {
                let (class, [x, y, w, h]) = boxes[detection % boxes.len()];
                let [shift, other, score]: [f64; 3] = random.random();
                let class = if other < 0.7 { class } else { (class + 1) % CLASSES };
                let bbox = [x + 40.0 * shift * shift, y, w, h];
                detections.push(Detection { image_id, category_id: 1 + u64::from(class), bbox, score });
            }
        }
    }
    let truth = GroundTruth::of(&instances)?;
    let start = Instant::now();
    let ap = evaluate(&truth, &found[0], &Options::default())?.stats[0];
    let evaluated = start.elapsed();
    analyse(&truth, &found[0], &Options::default())?;
    println!("evaluation {evaluated:.1?} (AP {ap:.3}), analysis {:.1?}", start.elapsed() - evaluated);
    let start = Instant::now();
    let [first, second] = found.map(|found| matches(&truth, &found, &Options::default()));
    let pair = [(first?, second?)];
    let matched = start.elapsed();
    let found = bootstrap(&pair, 0).context("there are boxes")?;
    let resampled = start.elapsed() - matched;
    println!("matching twice {matched:.1?}, {RESAMPLES} resamples {resampled:.1?}: {:?}", found.interval);
    Ok(())
}
