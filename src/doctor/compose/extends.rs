//! The settings that a service takes from elsewhere: `extends`, `env_file`, and Swarm's resources.
//!
//! Facts: the Compose specification, "extends" and "env_file"; Docker's documentation of
//! `generic_resources`, which Swarm reads in place of `devices`.

use std::collections::BTreeMap;

use super::node::{Lines, Node};
use super::{Context, defaults, names_device};
use crate::cdi::tree::{Tree, Unreadable};
use crate::sys::budget::{Budget, Exceeded};

/// The most services that one service extends through others.
const MAX_DEPTH: usize = 8;

/// What a service inherits by `extends`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Inherited {
    /// A request for a GPU.
    Gpu,
    /// No GPU.
    None,
    /// A file that cannot be read decides.
    Unknown,
}

/// Follows `extends` of a service of the file `root`.
pub(super) fn of(
    service: &Node<'_>,
    root: &Node<'_>,
    context: &Context,
    budget: &Budget,
) -> Result<Inherited, Exceeded> {
    follow(service, root, context, budget, 0)
}

fn follow(
    service: &Node<'_>,
    root: &Node<'_>,
    context: &Context,
    budget: &Budget,
    depth: usize,
) -> Result<Inherited, Exceeded> {
    budget.step()?;
    let Some(extends) = service.get("extends") else {
        return Ok(Inherited::None);
    };
    let member = |key: &str| extends.get(key).and_then(|node| node.text());
    let Some(name) = extends.text().or_else(|| member("service")) else {
        return Ok(Inherited::Unknown);
    };
    if depth == MAX_DEPTH {
        return Ok(Inherited::Unknown);
    }
    let Some(file) = member("file") else {
        return inherited(name, root, context, budget, depth);
    };
    let Some(text) = beside(file, context, budget)? else {
        return Ok(Inherited::Unknown);
    };
    match Tree::yaml(&text, budget) {
        Ok(tree) => inherited(
            name,
            &Node::root(&tree, &Lines::of(&text)),
            context,
            budget,
            depth,
        ),
        Err(Unreadable::Exceeded(exceeded)) => Err(exceeded),
        Err(Unreadable::Broken(_)) => Ok(Inherited::Unknown),
    }
}

/// What the service `name` of the file `root` brings.
fn inherited(
    name: &str,
    root: &Node<'_>,
    context: &Context,
    budget: &Budget,
    depth: usize,
) -> Result<Inherited, Exceeded> {
    match root.path(&["services", name]) {
        None => Ok(Inherited::Unknown),
        Some(base) if requests_gpu(&base, budget)? => Ok(Inherited::Gpu),
        Some(base) => follow(&base, root, context, budget, depth + 1),
    }
}

/// Whether a service requests a GPU in any form.
fn requests_gpu(service: &Node<'_>, budget: &Budget) -> Result<bool, Exceeded> {
    let reserved = service.path(&["deploy", "resources", "reservations", "devices"]);
    let runtime = service.get("runtime");
    let runtime = match runtime.as_ref().and_then(Node::text) {
        Some(text) => defaults(text, budget)?,
        None => String::new(),
    };
    Ok(reserved.is_some()
        || service.get("gpus").is_some()
        || runtime == "nvidia"
        || names_device(service, "nvidia")
        || has_generic_gpu(service))
}

/// Whether a service reserves one of Swarm's generic resources that is a GPU by its name.
pub(super) fn has_generic_gpu(service: &Node<'_>) -> bool {
    let all = service.path(&["deploy", "resources", "reservations", "generic_resources"]);
    let mut all = all.iter().flat_map(Node::items);
    all.any(|resource| {
        let kind = resource.path(&["discrete_resource_spec", "kind"]);
        let kind = kind.as_ref().and_then(Node::text);
        kind.is_some_and(|kind| kind.to_ascii_lowercase().contains("gpu"))
    })
}

/// A file beside the Compose file.
fn beside(file: &str, context: &Context, budget: &Budget) -> Result<Option<String>, Exceeded> {
    let outside = file.starts_with(['/', '~', '$']) || file.split('/').any(|part| part == "..");
    if outside {
        return Ok(None);
    }
    context.read(file, budget)
}

/// The variables of a service's `env_file`, and the first one that was not read.
pub(super) fn files_of(
    service: &Node<'_>,
    context: &Context,
    budget: &Budget,
) -> Result<(BTreeMap<String, String>, Option<String>), Exceeded> {
    let mut found = BTreeMap::new();
    let mut unread = None;
    let Some(all) = service.get("env_file") else {
        return Ok((found, unread));
    };
    let items = all.items();
    for item in items.iter().chain([&all]) {
        budget.step()?;
        let path = item.get("path");
        let Some(file) = item.text().or_else(|| path.as_ref().and_then(Node::text)) else {
            continue;
        };
        let Some(text) = beside(file, context, budget)? else {
            unread.get_or_insert_with(|| file.to_owned());
            continue;
        };
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            if let Some((name, value)) = line.split_once('=') {
                budget.keep((128 + line.len()) as u64)?;
                let value = value.trim().trim_matches(['"', '\'']);
                found.insert(name.trim().to_owned(), value.to_owned());
            }
        }
    }
    Ok((found, unread))
}
