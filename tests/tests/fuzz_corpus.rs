//! The saved fuzz corpus through the same functions the fuzz targets call.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../../fuzz/src/lib.rs"]
#[allow(unreachable_pub)]
mod entries;

use std::{fs, path::Path};

#[test]
fn every_saved_input_ends_without_a_broken_invariant() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let mut kinds: Vec<_> = entries::ENTRIES.iter().map(|(name, _)| (*name).to_owned()).collect();
    for (name, entry) in entries::ENTRIES {
        let mut files = 0;
        for file in fs::read_dir(corpus.join(name)).unwrap() {
            let path = file.unwrap().path();
            let data = fs::read(&path).unwrap();
            let ended = std::panic::catch_unwind(|| entry(&data));
            assert!(ended.is_ok(), "{} breaks {name}", path.display());
            files += 1;
        }
        assert!(files > 0, "no input is saved for {name}");
    }
    let folders = fs::read_dir(&corpus).unwrap();
    let mut folders: Vec<_> =
        folders.map(|folder| folder.unwrap().file_name().into_string().unwrap()).collect();
    folders.sort();
    kinds.sort();
    assert_eq!(folders, kinds, "a folder of inputs has no function, or the reverse");
}
