use super::*;
use crate::ops::vectorise;
use crate::testing::ramp;

fn tensor(shape: &[usize], seed: usize) -> Tensor {
    let count: usize = shape.iter().product();
    Tensor::from_shape(shape, &ramp(count + seed)[seed..]).unwrap()
}

/// What tract makes of `a` and `b` by these axes, and what a graph does that [`vectorise`] changed; the second is constant if asked.
fn both(axes: &str, a: &[usize], b: &[usize], constant: bool, biased: bool) -> [Tensor; 2] {
    let (a, b) = (tensor(a, 0), tensor(b, 5));
    let op = EinSum::new(axes.parse().unwrap(), f32::datum_type());
    let mut model = TypedModel::default();
    let x = model.add_source("a", f32::fact(a.shape())).unwrap();
    let w = if constant {
        model.add_const("b", b.clone()).unwrap()
    } else {
        model.add_source("b", f32::fact(b.shape())).unwrap()
    };
    let mut y = model.wire_node("product", op, &[x, w]).unwrap();
    if biased {
        let shape = model.outlet_fact(y[0]).unwrap().shape.as_concrete().unwrap().to_vec();
        let mut row = vec![1; shape.len()];
        *row.last_mut().unwrap() = *shape.last().unwrap();
        let row = model.add_const("row", tensor(&row, 9)).unwrap();
        let add = tract_onnx::tract_core::ops::math::add();
        y = model.wire_node("sum", add, &[y[0], row]).unwrap();
    }
    model.select_output_outlets(&y).unwrap();
    let mut ours = model.clone();
    vectorise(&mut ours).unwrap();
    let ours = ours.into_optimized().unwrap();
    let names: Vec<_> = ours.nodes().iter().map(|node| node.op.name().to_string()).collect();
    assert!(names.contains(&"MeridianProduct".to_owned()), "{names:?}");
    assert!(!biased || names.len() <= 3, "{names:?}");
    [model.into_optimized().unwrap(), ours].map(|model| {
        let mut given = tvec![a.clone().into_tvalue()];
        if !constant {
            given.push(b.clone().into_tvalue());
        }
        let made = model.into_runnable().unwrap().run(given).unwrap();
        made.into_iter().next().unwrap().into_tensor()
    })
}

#[test]
fn products_along_any_axes_are_those_that_tract_makes() {
    let cases: [(&str, &[usize], &[usize]); 11] = [
        ("mk,kn->mn", &[7, 70], &[70, 80]),
        ("mk,nk->mn", &[7, 70], &[80, 70]),
        ("km,kn->nm", &[70, 7], &[70, 80]),
        ("amk,kn->amn", &[3, 7, 70], &[70, 80]),
        ("amk,akn->amn", &[3, 7, 10], &[3, 10, 20]),
        // Attention as exporters write it: heads in the middle, or in front of a tensor that was cut.
        ("bthd,bshd->bhts", &[2, 6, 3, 5], &[2, 9, 3, 5]),
        ("bhts,bshd->bthd", &[2, 3, 6, 9], &[2, 9, 3, 5]),
        ("bkhw,ok->bohw", &[2, 5, 3, 4], &[90, 5]),
        ("abm,bac->mc", &[3, 4, 5], &[4, 3, 6]),
        ("am,an->amn", &[3, 4], &[3, 5]),
        ("1mk,kn->m1n", &[1, 6, 70], &[70, 66]),
    ];
    for (axes, a, b) in cases {
        for constant in [false, true] {
            let [tracts, ours] = both(axes, a, b, constant, false);
            tracts
                .close_enough(&ours, Approximation::Close)
                .unwrap_or_else(|e| panic!("{axes}: {e:?}"));
        }
    }
}

#[test]
fn a_row_that_is_added_is_where_sums_begin() {
    let cases: [(&str, &[usize], &[usize]); 3] = [
        ("mk,kn->mn", &[7, 70], &[70, 80]),
        ("amk,nk->amn", &[3, 7, 70], &[80, 70]),
        ("kab,kn->abn", &[70, 2, 3], &[70, 80]),
    ];
    for (axes, a, b) in cases {
        let [tracts, ours] = both(axes, a, b, true, true);
        tracts
            .close_enough(&ours, Approximation::Approximate)
            .unwrap_or_else(|e| panic!("{axes}: {e:?}"));
    }
}

#[test]
fn a_sum_of_nothing_is_zero() {
    for constant in [false, true] {
        for (axes, a, b) in [
            ("mk,kn->mn", [2, 0], [0, 3]),
            ("mk,kn->mn", [2, 3], [3, 0]),
            ("mk,nk->mn", [2, 3], [0, 3]),
        ] {
            let [tracts, ours] = both(axes, &a, &b, constant, false);
            assert_eq!(tracts, ours, "{axes}, constant: {constant}");
        }
    }
}

#[test]
fn many_inputs_of_few_columns_are_summed_to_the_same_bits_without_being_packed() {
    let (x, w) = (ramp(2 * (INPUTS_MANY + 1)), ramp(INPUTS_MANY + 1));
    let steps = |size: usize| {
        let mut steps = Steps::default();
        steps.push(&[size, INPUTS_MANY + 1], 0);
        steps
    };
    let inner = || Steps::of(&[[INPUTS_MANY + 1, 1]]);
    let sizes = Sizes {
        batch: Default::default(),
        rows: [steps(2), Steps::of(&[[2, 1]])],
        columns: [Steps::default(); 2],
        inner: [inner(), inner()],
    };
    let mut scratch = Scratch::default();
    let (mut ours, mut packed) = ([0.0; 2], [0.0; 2]);
    one(&sizes, [&x, &w], None, &mut scratch, &mut ours);
    assert_eq!(scratch.matrix.bytes(), 0);
    Matrix::new(&w, 1, None).unwrap().run(Isa::best(), &x, &mut packed);
    assert_eq!(ours.map(f32::to_bits), packed.map(f32::to_bits));
}
