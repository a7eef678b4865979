//! `NVIDIA_REQUIRE_*` in an image's form.

use nvoci::request::{Facts, Requirement, evaluate_all};

use crate::count::reached;

/// Holds for every input.
pub(crate) fn check(value: &[u8]) {
    reached("run");
    let value = String::from_utf8_lossy(value);
    let mut notes = Vec::new();
    match Requirement::parse("NVIDIA_REQUIRE_CUDA", &value, &mut notes) {
        Ok(requirement) => {
            reached("accepted");
            let known = Facts {
                cuda: "12.4".parse().ok(),
                driver: "550.54.15".parse().ok(),
                arch: "9.0".parse().ok(),
                brand: Some("Tesla"),
            };
            for facts in [known, Facts::default()] {
                if let Err(e) = evaluate_all(std::slice::from_ref(&requirement), &facts) {
                    assert!(
                        e.to_string().len() < 4096,
                        "an image chose the length of a message"
                    );
                }
            }
            // An unknown fact never refuses a container.
            assert!(evaluate_all(&[requirement], &Facts::default()).is_ok());
        }
        Err(e) => assert!(e.to_string().len() < 4096),
    }
    assert!(notes.iter().map(String::len).sum::<usize>() < 65_536);
}
