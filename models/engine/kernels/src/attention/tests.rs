use proptest::prelude::*;

use super::*;
use crate::Isa;

/// Attention by its definition, in 64 bits.
fn by_definition(
    shape: AttentionShape,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    mask: Option<Mask<'_>>,
    scale: f32,
) -> Vec<f64> {
    let row = shape.heads * shape.width;
    let mut y = vec![0.0; shape.queries * row];
    for head in 0..shape.heads {
        for query in 0..shape.queries {
            let at = |token: usize, d: usize| token * row + head * shape.width + d;
            let score = |key: usize| {
                let products = (0..shape.width).map(|d| f64::from(q[at(query, d)]) * f64::from(k[at(key, d)]));
                let add = mask.map_or(0.0, |m| m.values[head * m.head_step + query * m.query_step + key]);
                products.sum::<f64>() * f64::from(scale) + f64::from(add)
            };
            let scores: Vec<f64> = (0..shape.keys).map(score).collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let all: f64 = scores.iter().map(|s| (s - most).exp()).sum();
            for d in 0..shape.width {
                let mixed = scores
                    .iter()
                    .enumerate()
                    .map(|(key, s)| (s - most).exp() / all * f64::from(v[at(key, d)]));
                y[at(query, d)] = mixed.sum();
            }
        }
    }
    y
}

fn noise(seed: u64, count: usize) -> Vec<f32> {
    let number = |i: usize| {
        (u64::try_from(i)
            .unwrap()
            .wrapping_add(seed)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            >> 40) as f32
    };
    (0..count).map(|i| number(i) / 8_388_608.0 - 1.0).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn every_form_gives_the_same_bits_and_they_are_right(
        queries in 0_usize..20, keys in 1_usize..80, heads in 1_usize..4, width in 1_usize..70, masked in 0..3, seed: u64,
    ) {
        let shape = AttentionShape { queries, keys, heads, width };
        let row = heads * width;
        let (q, k, v) = (noise(seed, queries * row), noise(seed ^ 1, keys * row), noise(seed ^ 2, keys * row));
        let added: Vec<f32> = noise(seed ^ 3, heads * queries.max(1) * keys).iter().map(|x| if *x > 0.3 { -1e4 } else { *x }).collect();
        let mask = match masked {
            0 => None,
            1 => Some(Mask { values: &added[..keys], head_step: 0, query_step: 0 }),
            _ => Some(Mask { values: &added, head_step: queries * keys, query_step: keys }),
        };
        let run = |isa| {
            let mut y = vec![f32::NAN; queries * row];
            Attention { shape, q: &q, k: &k, v: &v, mask, scale: 0.3 }.run(isa, &mut AttentionScratch::default(), &mut y);
            y
        };
        let exact = by_definition(shape, &q, &k, &v, mask, 0.3);
        let reference = run(Isa::PORTABLE);
        for (y, exact) in reference.iter().zip(&exact) {
            prop_assert!((f64::from(*y) - exact).abs() < 1e-5, "{y} {exact}");
        }
        for isa in Isa::available() {
            let y = run(isa);
            prop_assert!(y.iter().zip(&reference).all(|(a, b)| a.to_bits() == b.to_bits()), "{}", isa.name());
        }
    }
}

#[test]
fn scratch_of_a_longer_call_leaves_nothing_in_a_shorter_one() {
    let shape = |keys| AttentionShape {
        queries: 3,
        keys,
        heads: 2,
        width: 8,
    };
    let (q, k) = (noise(1, 48), noise(2, 100 * 16));
    let run = |scratch: &mut AttentionScratch, keys: usize| {
        let mut y = vec![0.0; 48];
        let k = &k[..keys * 16];
        Attention {
            shape: shape(keys),
            q: &q,
            k,
            v: k,
            mask: None,
            scale: 1.0,
        }
        .run(Isa::best(), scratch, &mut y);
        y
    };
    let mut scratch = AttentionScratch::default();
    run(&mut scratch, 100);
    assert_eq!(run(&mut scratch, 5), run(&mut AttentionScratch::default(), 5));
}

#[test]
#[should_panic(expected = "do not fit")]
fn slices_of_other_lengths_are_refused() {
    let shape = AttentionShape {
        queries: 1,
        keys: 2,
        heads: 1,
        width: 2,
    };
    let call = Attention {
        shape,
        q: &[0.0; 2],
        k: &[0.0; 3],
        v: &[0.0; 4],
        mask: None,
        scale: 1.0,
    };
    call.run(Isa::best(), &mut AttentionScratch::default(), &mut [0.0; 2]);
}
