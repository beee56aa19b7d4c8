//! The OASIS test cases over the socket of a running key manager, when their folder is there, each in its own
//! version and in the one before. A case that is not named in `tests/oasis.toml` must pass.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use qkm_tests::oasis::{Case, Exceptions, cases, folder, replay};

#[tokio::test(flavor = "multi_thread")]
async fn oasis_cases_give_what_the_repository_says() {
    let mut found = cases(&folder());
    if found.is_empty() {
        println!("SKIPPED: no OASIS test cases in {}", folder().display());
        return;
    }
    let older: Vec<Case> = found.iter().filter_map(Case::older).collect();
    found.extend(older);
    let exceptions = Exceptions::of_repository();
    let report = replay(&found, &exceptions).await;
    println!("{report}");
    let regressions = report.regressions(&exceptions);
    assert!(regressions.is_empty(), "{}", regressions.join("\n"));
    println!("no longer failing: {:?}", report.mended(&exceptions));
}
