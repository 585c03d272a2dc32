/// The generator that llama.cpp samples tokens with (MT19937), so that a seed draws here what it
/// draws there.
///
/// source: Matsumoto and Nishimura 1998; C++ `std::mt19937` and
/// `std::uniform_real_distribution<double>`.
#[derive(Clone)]
pub struct Mersenne {
    state: [u32; N],
    next: usize,
}

const N: usize = 624;
const M: usize = 397;

impl Mersenne {
    /// Seed it as numpy's `RandomState` does.
    pub fn new(seed: u32) -> Self {
        let mut state = [seed; N];
        for i in 1..N {
            let last = state[i - 1];
            state[i] = (last ^ (last >> 30))
                .wrapping_mul(1_812_433_253)
                .wrapping_add(i as u32);
        }
        Self { state, next: N }
    }

    /// Draw the next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == N {
            for i in 0..N {
                let mixed = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
                let odd = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + M) % N] ^ (mixed >> 1) ^ odd;
            }
            self.next = 0;
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// Uniform in `0.0..1.0`, from two words.
    pub fn unit(&mut self) -> f64 {
        const WORD: f64 = 4_294_967_296.0;
        let low = f64::from(self.next_u32());
        (low + f64::from(self.next_u32()) * WORD) / (WORD * WORD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ten_thousandth_word_is_the_one_of_the_standard() {
        let mut random = Mersenne::new(5489);
        let last = (0..10_000).map(|_| random.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
        assert!(
            (0..1000)
                .map(|_| random.unit())
                .all(|x| (0.0..1.0).contains(&x))
        );
    }
}
