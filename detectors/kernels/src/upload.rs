//! Values of the host on their way to a GPU while it computes.
//!
//! A thread that prepares a batch sends it through [`Uploads`]: a ring of two page-locked buffers, a stream of its own for
//! the copies, and an event for each. The computation waits on the device for the copy that it uses, and for no other.

#[cfg(feature = "cuda")]
mod gpu;

use std::ops::{Deref, DerefMut};

use candle_core::{Device, Shape, Tensor};

use crate::Result;

/// Values of the host, of which a copy may be on its way to a GPU. Whoever changes them takes the copy back.
#[derive(Debug, Default)]
pub struct Values {
    host: Vec<f32>,
    #[cfg(feature = "cuda")]
    sent: Option<gpu::Sent>,
}

impl Values {
    /// Sends a copy ahead. Where the GPU has no room for it, [`into_tensor`](Self::into_tensor) copies, and has the error.
    pub fn send(&mut self, through: &Uploads) {
        #[cfg(feature = "cuda")]
        {
            self.sent = through.0.send(&self.host).ok();
        }
        #[cfg(not(feature = "cuda"))]
        match through.0 {}
    }

    /// A row-major tensor of the values: the copy that was sent to `device`, or a copy that is made now.
    ///
    /// # Errors
    /// If there are more or fewer values than `shape` has, or the device has no room.
    pub fn into_tensor(self, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
        let shape = shape.into();
        #[cfg(feature = "cuda")]
        if let (Some(sent), Device::Cuda(device)) = (self.sent, device)
            && shape.elem_count() == self.host.len()
            && sent.is_to(device)
        {
            return sent.tensor(shape, device);
        }
        Ok(Tensor::from_vec(self.host, shape, device)?)
    }
}

impl From<Vec<f32>> for Values {
    fn from(host: Vec<f32>) -> Self {
        Self {
            host,
            #[cfg(feature = "cuda")]
            sent: None,
        }
    }
}

impl Clone for Values {
    fn clone(&self) -> Self {
        self.host.clone().into()
    }
}

impl PartialEq for Values {
    fn eq(&self, other: &Self) -> bool {
        self.host == other.host
    }
}

impl Deref for Values {
    type Target = Vec<f32>;

    fn deref(&self) -> &Vec<f32> {
        &self.host
    }
}

impl DerefMut for Values {
    fn deref_mut(&mut self) -> &mut Vec<f32> {
        #[cfg(feature = "cuda")]
        {
            self.sent = None;
        }
        &mut self.host
    }
}

/// Copies to one GPU beside its computation.
#[derive(Debug)]
pub struct Uploads(
    #[cfg(feature = "cuda")] gpu::Ring,
    #[cfg(not(feature = "cuda"))] std::convert::Infallible,
);

impl Uploads {
    /// Copies to `device`; none to the CPU.
    ///
    /// # Errors
    /// Errors of the driver.
    pub fn to(device: &Device) -> Result<Option<Self>> {
        match device {
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => Ok(Some(Self(gpu::Ring::new(device)?))),
            _ => Ok(None),
        }
    }
}
