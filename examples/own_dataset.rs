//! Trains on images that this program draws in memory: `cargo run --release --example own_dataset [FOLDER]`

use std::path::{Path, PathBuf};

use ckd_det::Training;
use ckd_det::config::{
    Architecture, Backbone, Config, Data, DataKind, DetectorSettings, Input, Network, NormKind, Optim, Run,
    Schedule, ScheduleKind, Student,
};
use ckd_det::data::{Dataset, Instances};
use ckd_det::engine::detect::{DataSets, LoadedSplit};
use image::{DynamicImage, Rgb, RgbImage};

/// Side of the images, and of the square on each.
const SIDE: u32 = 64;
const SQUARE: u32 = 24;

/// The square's left and top edge on an image of a split, and its class.
fn square(split: u32, image: u32) -> (u32, u32, usize) {
    let place = |factor: u32| (image * factor + split * 7) % (SIDE - SQUARE);
    (place(11), place(17), (image % 2) as usize)
}

/// Image and boxes of a split of `count` images: a red or a green square on grey.
fn split(number: u32, count: u32) -> Result<LoadedSplit, Box<dyn std::error::Error>> {
    let mut instances = Instances::of_classes(["red", "green"]);
    for image in 0..count {
        let (x, y, class) = square(number, image);
        let object = (class as u32, [x, y, SQUARE, SQUARE].map(f64::from));
        instances.push_image(&format!("square {image}"), (SIDE, SIDE), [object]);
    }
    let dataset = Dataset::with_pixels(&instances, move |image| {
        let (x, y, class) = square(number, image as u32);
        let mut picture = RgbImage::from_pixel(SIDE, SIDE, Rgb([120; 3]));
        for (u, v) in (0..SQUARE * SQUARE).map(|at| (at % SQUARE, at / SQUARE)) {
            picture.put_pixel(x + u, y + v, [Rgb([220, 40, 40]), Rgb([40, 220, 40])][class]);
        }
        Ok(DynamicImage::from(picture))
    })?;
    Ok(LoadedSplit::of(&instances, dataset)?)
}

/// A small RetinaNet; `[data]` only says how batches are loaded.
fn config(folder: &Path, steps: u64) -> Config {
    let schedule = Schedule {
        steps: Some(steps),
        kind: ScheduleKind::Cosine,
        warmup_steps: steps / 10,
        ..Schedule::default()
    };
    let run = Run {
        output: folder.to_owned(),
        ..Run::new("squares".to_owned(), Optim { clip_grad_norm: Some(10.0), ..Optim::new(0.02) }, schedule)
    };
    let anchors = [16.0, 24.0, 32.0, 64.0, 128.0].map(|side| vec![side]).to_vec();
    let mut detector = DetectorSettings {
        fpn_channels: 16,
        anchor_sizes: Some(anchors),
        ..DetectorSettings::new(Architecture::RetinaNet)
    };
    detector.retina.head_convs = 1;
    let network = Network { width: Some(8), norm: NormKind::Bn, ..Network::new(Backbone::RESNET18) };
    Config {
        input: Input { short_side_px: vec![SIDE], long_side_px: SIDE, ..Input::default() },
        ..Config::new(run, detector, Data::new(DataKind::Coco, folder.to_owned()), Student::new(network))
    }
}

/// Trains for `steps` updates on `count` images; gives the AP on half as many others.
pub fn run(folder: &Path, count: u32, steps: u64) -> Result<f64, Box<dyn std::error::Error>> {
    let data = DataSets::new(split(0, count)?, split(1, count.div_ceil(2))?)?;
    let finished = Training::new(config(folder, steps))?.data(data).run()?;
    Ok(finished.student.row.stats[0])
}

#[allow(clippy::print_stdout)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).map_or_else(|| PathBuf::from("runs"), PathBuf::from);
    println!("{:.1} AP", 100.0 * run(&folder, 200, 400)?);
    Ok(())
}
