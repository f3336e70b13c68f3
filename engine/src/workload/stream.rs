//! The seeded streams that workloads draw from.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What a stream is for; each has its own, so that no draw of one moves another.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    Gaps = 0,
    Prompts = 1,
    Outputs = 2,
    Tokens = 3,
}

/// Numbers in (0, 1), equal on every machine for the same seed.
#[derive(Debug, Clone)]
pub(super) struct Stream(ChaCha8Rng);

impl Stream {
    pub(super) fn new(seed: u64, purpose: Purpose) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(purpose as u64);
        Self(rng)
    }

    /// A stream of its own for each of many things of one purpose.
    pub(super) fn of_one(seed: u64, purpose: Purpose, number: u32) -> Self {
        let mut stream = Self::new(seed, purpose);
        stream.0.set_stream(((number as u64 + 1) << 8) | purpose as u64);
        stream
    }

    /// Uniform in 0 .. end.
    pub(super) fn below(&mut self, end: u32) -> u32 {
        ((u64::from(self.0.next_u32()) * u64::from(end)) >> 32) as u32
    }

    /// Uniform in (0, 1), both ends excluded.
    pub(super) fn uniform(&mut self) -> f64 {
        ((self.0.next_u64() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// Exponential with mean 1.
    pub(super) fn exponential(&mut self) -> f64 {
        -libm::log(self.uniform())
    }

    /// Gamma with mean 1 and coefficient of variation `cv` (Marsaglia and Tsang 2000, with their boost for shapes below 1).
    pub(super) fn gamma(&mut self, cv: f64) -> f64 {
        let shape = 1.0 / (cv * cv);
        if shape >= 1.0 {
            return self.gamma_shape(shape) / shape;
        }
        let boost = libm::pow(self.uniform(), 1.0 / shape);
        self.gamma_shape(shape + 1.0) * boost / shape
    }

    fn gamma_shape(&mut self, shape: f64) -> f64 {
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let root = 1.0 + c * x;
            let v = root * root * root;
            if v > 0.0 && libm::log(self.uniform()) < 0.5 * x * x + d - d * v + d * libm::log(v) {
                return d * v;
            }
        }
    }

    /// Standard normal (Box and Muller 1958).
    fn normal(&mut self) -> f64 {
        let radius = (2.0 * self.exponential()).sqrt();
        radius * libm::cos(std::f64::consts::TAU * self.uniform())
    }
}
