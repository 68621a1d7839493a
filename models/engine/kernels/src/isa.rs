//! Which instructions a call may use.

/// A set of instructions that this processor has: only [`Isa::available`] makes one, so holding it is the proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Isa(pub(crate) Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// What every processor has.
    Portable,
    /// 256-bit integers, and products that are summed in one rounding.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 512-bit vectors with dot products of four bytes.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
}

impl Isa {
    /// The reference, on every processor.
    pub const PORTABLE: Self = Self(Kind::Portable);

    /// All that this processor has, the fastest first, [`Isa::PORTABLE`] last.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
            {
                all.push(Self(Kind::Avx512Vnni));
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.push(Self(Kind::Avx2));
            }
        }
        all.push(Self::PORTABLE);
        all
    }

    /// The fastest that this processor has.
    #[must_use]
    pub fn best() -> Self {
        static BEST: std::sync::OnceLock<Isa> = std::sync::OnceLock::new();
        *BEST.get_or_init(|| Self::available()[0])
    }

    /// A name for tables and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => "avx512-vnni",
        }
    }
}

/// Defines functions whose one body is compiled once for each instruction set, so that the compiler may use its vectors.
///
/// Rust never contracts `a * b + c`, so all forms give the same bits.
macro_rules! per_isa {
    ($(#[$doc:meta])* $visible:vis fn $name:ident($($arg:ident: $type:ty),*) $body:block) => {
        $(#[$doc])*
        $visible fn $name(isa: $crate::Isa, $($arg: $type),*) {
            #[inline(always)]
            fn body($($arg: $type),*) $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2($($arg: $type),*) { body($($arg),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
            fn avx512($($arg: $type),*) { body($($arg),*) }
            match isa.0 {
                $crate::isa::Kind::Portable => body($($arg),*),
                // SAFETY: an `Isa` of this kind exists only where the processor has these instructions.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Kind::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Kind::Avx512Vnni => unsafe { avx512($($arg),*) },
            }
        }
    };
}
pub(crate) use per_isa;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_portable_form_is_always_there_and_last() {
        assert_eq!(Isa::available().last(), Some(&Isa::PORTABLE));
        assert_eq!(Isa::best(), Isa::available()[0]);
        // `tests/sanitize/run` shows it: what a checker hides from us was not checked.
        let forms: Vec<_> = Isa::available().into_iter().map(Isa::name).collect();
        println!("forms: {}", forms.join(" "));
    }
}
