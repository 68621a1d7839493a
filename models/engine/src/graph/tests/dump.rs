use super::*;
#[test]
fn dump() {
    let Ok(path) = std::env::var("DUMP") else { return };
    for path in path.split(':') {
    let file = std::fs::read(path).unwrap();
    for (form, file) in [("f32", Some(file.clone())), ("int8", crate::quantize::weights_int8(&file).ok())] {
        let Some(file) = file else { continue };
        let prepared = Prepared::of(onnx::decode(&file).unwrap()).unwrap();
        let Prepared { model, weights } = prepared;
        let io = onnx::describe_model(&model).unwrap();
        let convolves = model.graph.as_ref().unwrap().node.iter().any(|node| node.op_type.contains("Conv"));
        let parsed = crate::ops::with_weights(weights, || plan::parse(&model, &io.inputs)).unwrap();
        let symbolic = !convolves && has_free_axes(&io.inputs);
        let plan = if symbolic { plan::for_any(parsed, &io.inputs).unwrap().ready } else {
            let shapes: Vec<Vec<usize>> = io.inputs.iter().map(|spec| spec.shape.iter().enumerate().map(|(i, d)| match d { Dim::Fixed(n) => *n as usize, Dim::Named(_) => if i == 0 {1} else {320} }).collect()).collect();
            plan::for_shapes(&parsed, &io.inputs, &shapes).unwrap()
        };
        let program = plan.program.as_ref(); let plan = plan.plan.clone();
        println!("=== {path} {form} symbolic {symbolic} {:?}", io.inputs);
        for n in plan.order_without_consts() {
            let node = plan.model().node(*n);
            let facts = |o: &[tract_onnx::tract_hir::internal::OutletId]| o.iter().map(|o| { let f = plan.model().outlet_fact(*o).unwrap(); format!("{}{:?}[{:?}]", if f.konst.is_some() {"#"} else {""}, f.datum_type, f.shape) }).collect::<Vec<_>>().join(" ");
            let work = program.map_or("?", |p| p.steps.iter().find(|s| s.node == *n).map_or("input", |s| match s.work { program::Work::View => "view", program::Work::Write(_) => if s.copied.is_some() {"write+copy"} else {"write"}, program::Work::Tract => "TRACT" }));
 println!("{work} {} {} | {} -> {:?} {}", node.op().name(), format!("{:?}", node.op).chars().take(if node.op().name().starts_with("Meridian") {0} else {160}).collect::<String>(), facts(&node.inputs), node.outputs.iter().map(|o| format!("{:?}[{:?}]", o.fact.datum_type, o.fact.shape)).collect::<Vec<_>>(), node.op().info().unwrap_or_default().len());
        }
    }}
}
#[test]
fn zoo_runs() {
    let Ok(path) = std::env::var("DUMP") else { return };
    for path in path.split(':') {
    let file = std::fs::read(path).unwrap();
    for (form, file) in [("f32", Some(file.clone())), ("int8", crate::quantize::weights_int8(&file).ok())] {
        let Some(file) = file else { continue };
        let graph = graph(&file);
        for (rows, free) in [(1, 64), (3, 96)] {
            let inputs: Vec<_> = graph.inputs().iter().map(|spec| {
                let shape: Vec<usize> = spec.shape.iter().enumerate().map(|(i, d)| match d { Dim::Fixed(n) => *n as usize, Dim::Named(_) => if i == 0 {rows} else {free} }).collect();
                let n: usize = shape.iter().product();
                match spec.datatype {
                    proto::manifest::DataType::Fp32 => of_f32s(&spec.name, shape, &ramp(n)),
                    proto::manifest::DataType::Int32 => crate::tensor::of_i32s(&spec.name, shape, &(0..n).map(|i| (i * 7919 % 2003 % 257) as i32).collect::<Vec<_>>()),
                    proto::manifest::DataType::Int64 => crate::tensor::of_i64s(&spec.name, shape, &(0..n).map(|i| if spec.name.contains("ids") && !spec.name.contains("type") { (i * 7919 % 2003) as i64 } else { i64::from(!spec.name.contains("type")) }).collect::<Vec<_>>()),
                    _ => panic!(),
                }
            }).collect();
            let r = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| graph.run(&inputs).map(|o| o[0].shape.clone())));
            println!("RAN {path} {form} {rows} {:?}", r.map_err(|_| "DIFFERS"));
        }
    }}
}
