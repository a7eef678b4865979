//! The errors of CUDA and NVML: numbers, names, and causes in a container.

use super::table::{known, rows};

const CUDA: &str = include_str!("data/cuda-errors.tsv");
const NVML: &str = include_str!("data/nvml-errors.tsv");

/// One error.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Known {
    /// Its number.
    pub number: u32,
    /// Its names: of the runtime and of the driver, or of NVML.
    pub names: [Option<&'static str>; 2],
    /// The description in the headers.
    pub meaning: &'static str,
    /// Its usual cause in a container.
    pub in_container: Option<&'static str>,
}

fn cuda_row([number, runtime, driver, meaning, container, _]: [&'static str; 6]) -> Option<Known> {
    Some(Known {
        number: number.parse().ok()?,
        names: [known(runtime), known(driver)],
        meaning,
        in_container: known(container),
    })
}

fn nvml_row([number, name, meaning, container, _]: [&'static str; 5]) -> Option<Known> {
    Some(Known {
        number: number.parse().ok()?,
        names: [Some(name), None],
        meaning,
        in_container: known(container),
    })
}

/// The errors of the CUDA runtime and driver, which share their numbers.
pub fn cuda() -> impl Iterator<Item = Known> {
    rows(CUDA).filter_map(cuda_row)
}

/// The errors of NVML; their names are without `NVML_ERROR_`.
pub fn nvml() -> impl Iterator<Item = Known> {
    rows(NVML).filter_map(nvml_row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compat::table::check;

    #[test]
    fn every_row_is_understood() {
        check(CUDA, cuda_row);
        check(NVML, nvml_row);
        let named = |name: &str| cuda().find(|k| k.names.contains(&Some(name))).unwrap().number;
        assert_eq!(named("cudaErrorInsufficientDriver"), 35);
        assert_eq!(named("CUDA_ERROR_NO_BINARY_FOR_GPU"), 209);
        assert_eq!(
            nvml().find(|k| k.number == 18).unwrap().names[0],
            Some("LIB_RM_VERSION_MISMATCH")
        );
    }
}
