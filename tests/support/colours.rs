//! A data set in CIFAR-10's binary form that is learned in seconds: classes are colours with noise.

use std::fs;
use std::path::Path;

/// Writes 28 training and 20 test images below `root`.
pub(crate) fn write(root: &Path) {
    let data = root.join("cifar-10-batches-bin");
    fs::create_dir_all(&data).expect("a new folder");
    fs::write(data.join("data_batch_1.bin"), rows(0..20)).expect("a file");
    fs::write(data.join("data_batch_2.bin"), rows(20..28)).expect("a file");
    fs::write(data.join("test_batch.bin"), rows(100..120)).expect("a file");
}

/// Rows of CIFAR-10's binary form: a label, then 3,072 bytes by planes.
pub(crate) fn rows(images: std::ops::Range<u64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for image in images {
        let label = (image * 7 % 10) as u8;
        bytes.push(label);
        bytes.extend((0..3072u64).map(|place| {
            let noise = (image * 3079 + place).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58;
            let tone = [25 * label, 255 - 25 * label, 17 * (label % 5)][place as usize / 1024];
            tone.saturating_add(noise as u8)
        }));
    }
    bytes
}
