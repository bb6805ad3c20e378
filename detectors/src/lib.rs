//! Detector networks.
