//! x
use engine::{graph::Graph, onnx, quantize};
use proto::{manifest::DataType, oip::Tensor};
use std::time::Instant;
fn ids(name: &str, b: usize, s: usize, f: impl Fn(usize) -> i64) -> Tensor {
    Tensor {
        name: name.into(),
        datatype: DataType::Int64,
        shape: vec![b, s],
        data: (0..b * s).flat_map(|i| f(i).to_le_bytes()).collect(),
    }
}
fn floats(t: &Tensor) -> Vec<f32> {
    t.data
        .chunks(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}
fn main() {
    let file = std::fs::read(std::env::args().nth(1).unwrap()).unwrap();
    let t = Instant::now();
    let q = quantize::weights_int8(&file).unwrap();
    println!("quantized {} -> {} in {:?}", file.len(), q.len(), t.elapsed());
    let mut gs = vec![];
    for (n, f) in [("f32", &file), ("int8", &q)] {
        let t = Instant::now();
        let g = Graph::new(onnx::decode(f).unwrap()).unwrap();
        println!("{n} load {:?} any {}", t.elapsed(), g.any_shape());
        gs.push((n, g));
    }
    for (b, s) in [(1, 16), (1, 64), (8, 64), (32, 64)] {
        let inp = [
            ids("input_ids", b, s, |i| (1000 + i * 37 % 20000) as i64),
            ids("attention_mask", b, s, |_| 1),
            ids("token_type_ids", b, s, |_| 0),
        ];
        let mut outs = vec![];
        for (n, g) in &gs {
            let o = g.run(&inp).unwrap();
            let mut v = vec![];
            let t0 = Instant::now();
            while v.len() < 5 || t0.elapsed().as_millis() < 1000 {
                let t = Instant::now();
                g.run(&inp).unwrap();
                v.push(t.elapsed().as_secs_f64() * 1e3);
            }
            v.sort_by(f64::total_cmp);
            println!(
                "b{b} s{s} {n}: min {:.2} med {:.2} ms ({:.2} per row)",
                v[0],
                v[v.len() / 2],
                v[v.len() / 2] / b as f64
            );
            outs.push(floats(&o[0]));
        }
        let (mut worst, mut sum) = (1f32, 0.);
        let n = outs[0].len() / 384;
        for r in 0..n {
            let (a, c) = (&outs[0][r * 384..][..384], &outs[1][r * 384..][..384]);
            let d: f32 = a.iter().zip(c).map(|(x, y)| x * y).sum();
            let na: f32 = a.iter().map(|x| x * x).sum::<f32>().sqrt();
            let nc: f32 = c.iter().map(|x| x * x).sum::<f32>().sqrt();
            let cos = d / na / nc;
            worst = worst.min(cos);
            sum += cos;
        }
        println!("   token cosine worst {worst} mean {}", sum / n as f32);
    }
}
