use translora_llama::{Backend, Compute, Dtype, Graph, Kernel, Plus, Storage};
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (k, m, n): (i64, i64, i64) = (args[1].parse().unwrap(), args[2].parse().unwrap(), args[3].parse().unwrap());
    let kind = match args[4].as_str() { "q8_0" => Dtype::Q8_0, "q4_0" => Dtype::Q4_0, "q4_k" => Dtype::Q4_K, "q6_k" => Dtype::Q6_K, "f16" => Dtype::F16, _ => Dtype::F32 };
    let kernel = Kernel::all().into_iter().find(|x| x.name().contains(&args[5])).unwrap();
    let mut compute = Compute::cpu(Backend::init().unwrap(), args[6].parse().unwrap()).unwrap();
    let storage = Storage::new(&compute, &[(kind, [k, m], "w".into())]).unwrap();
    compute.write_stored(&storage, 0, &vec![0u8; kind.row_bytes((k * m) as usize)]).unwrap();
    for turned in [false, true] {
        let mut graph = Graph::new(64).unwrap();
        let w = graph.stored(&storage, 0).unwrap();
        let inner = if turned { m } else { k };
        let x = graph.input(Dtype::F32, &[inner, n], "x").unwrap();
        let y = if turned { graph.times_turned(kernel, w, x, Plus::NONE).unwrap() } else { graph.times(kernel, w, x, Plus::NONE).unwrap() };
        graph.output(y).unwrap();
        compute.bind(&mut graph).unwrap();
        let v: Vec<f32> = (0..inner * n).map(|i| (i % 7) as f32 - 3.0).collect();
        let mut best = f64::MAX;
        let mut all = Vec::new();
        for _ in 0..25 {
            compute.set_f32(&graph, x, &v).unwrap();
            let t = std::time::Instant::now();
            compute.run(&graph).unwrap();
            let s = t.elapsed().as_secs_f64();
            best = best.min(s);
            all.push(s);
        }
        all.sort_by(f64::total_cmp);
        let f = 2.0 * (k * m * n) as f64 / 1e9;
        println!("{} {k}x{m}x{n} turned {turned}: best {:.0} median {:.0} GFLOP/s", kernel.name(), f / best, f / all[12]);
    }
}
