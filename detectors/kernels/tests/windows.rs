//! Windows around pixels against their definition and against differences.

use crate::support::*;
use ckd_kernels::Value;
use ckd_kernels::windows::{Pixel, windows};

/// Corners, edges, the middle, a pixel twice; more than one image; maps smaller than a window.
fn cases() -> Vec<([usize; 4], usize, Vec<Pixel>)> {
    let at = |image, y, x| Pixel { image, y, x };
    vec![
        ([2, 3, 5, 4], 3, vec![at(0, 0, 0), at(1, 4, 3), at(0, 2, 2), at(0, 2, 2), at(1, 0, 3), at(1, 4, 0)]),
        ([1, 2, 1, 1], 3, vec![at(0, 0, 0)]),
        ([1, 5, 2, 7], 5, vec![at(0, 1, 6), at(0, 0, 3), at(0, 1, 0)]),
        ([3, 4, 3, 3], 1, vec![at(2, 1, 1), at(0, 2, 0)]),
        ([1, 2, 3, 3], 3, vec![]),
    ]
}

#[test]
fn a_window_is_the_map_around_its_centre_and_zero_outside() {
    for (shape, side, centres) in cases() {
        let [_, c, h, w] = shape;
        let map = noise(1, &shape);
        let pixels = values(&map);
        let mut expected = Vec::new();
        for &Pixel { image, y, x } in &centres {
            for channel in 0..c {
                for (dy, dx) in (0..side * side).map(|i| (i / side, i % side)) {
                    let (row, column) = (y + dy, x + dx);
                    let inside =
                        (side / 2..side / 2 + h).contains(&row) && (side / 2..side / 2 + w).contains(&column);
                    expected.push(match inside {
                        true => pixels[((image * c + channel) * h + row - side / 2) * w + column - side / 2],
                        false => 0.0,
                    });
                }
            }
        }
        for map in [map.clone(), nhwc(&map)] {
            let got = windows(&Value::constant(map), &centres, side).unwrap();
            assert_eq!(got.dims(), [centres.len(), c, side, side]);
            assert_eq!(values(got.tensor()), expected);
        }
    }
}

#[test]
fn gradients_agree_with_differences() {
    for (shape, side, centres) in cases().into_iter().filter(|(.., centres)| !centres.is_empty()) {
        check_gradients(&[noise(2, &shape)], 0.2, 1e-4, |t| windows(&t[0], &centres, side).unwrap());
    }
}

#[test]
fn windows_that_are_nowhere_are_an_error() {
    let map = Value::constant(noise(3, &[1, 2, 3, 4]));
    for outside in
        [Pixel { image: 1, y: 0, x: 0 }, Pixel { image: 0, y: 3, x: 0 }, Pixel { image: 0, y: 0, x: 4 }]
    {
        assert!(windows(&map, &[outside], 3).unwrap_err().to_string().contains("Pixel"));
    }
    assert!(windows(&map, &[], 2).unwrap_err().to_string().contains("no centre"));
    assert!(windows(&map, &[], 0).is_err());
}
