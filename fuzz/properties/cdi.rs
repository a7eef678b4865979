//! A CDI specification in both formats: an accepted one is written and read back unchanged.

use nvoci::cdi::read::{Format, parse};
use nvoci::cdi::{Valid, emit, validate::validate};
use nvoci::sys::budget::Budget;

use crate::count::reached;

/// Holds for every input. The first byte chooses the format.
pub(crate) fn check(input: &[u8]) {
    reached("run");
    let Some((&first, bytes)) = input.split_first() else {
        return;
    };
    let format = if first % 2 == 0 {
        Format::Yaml
    } else {
        Format::Json
    };
    let Ok(spec) = parse(bytes, format, "fuzz", &Budget::default()) else {
        return;
    };
    reached("accepted");
    validate(&spec).expect("an accepted specification is valid");
    let valid = Valid::of(spec.clone()).expect("an accepted specification can be written");
    assert_eq!(*valid.spec(), spec);
    for (text, format) in [
        (emit::yaml(&valid), Format::Yaml),
        (emit::json(&valid), Format::Json),
    ] {
        let again = parse(text.as_bytes(), format, "again", &Budget::default())
            .expect("the written text can be read");
        assert_eq!(again, spec, "{text}");
    }
}
