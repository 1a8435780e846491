//! What a payload wants run: every spelling of SPEC 2, and the allow-list by name.
//!
//! Only names are judged here. Whether the thing exists, and is what it seems, is judged by the
//! loader in the run's own process.

use super::Rules;
use super::fields::{Fault, Fields, short};
use crate::job::Target;

/// The longest name of a part.
const MAX_NAME: usize = 100;

/// `target`, or the triple.
pub(super) fn read_fields(fields: &Fields<'_>, rules: &Rules<'_>) -> Result<Option<Target>, Fault> {
    let module = fields.name("module_path")?;
    let class = fields.name("class_name")?;
    let function = fields.name("method_name")?;
    let one = fields.name("target")?;
    if let Some(text) = one {
        if module.is_some() || class.is_some() || function.is_some() {
            return Err(Fault::payload(
                "it has target as well as module_path, class_name or method_name; leave one out",
            ));
        }
        return read(&text, rules).map(Some);
    }
    match (module, class, function) {
        (None, None, None) => Ok(None),
        (None, _, _) => Err(Fault::payload("module_path is missing")),
        (Some(_), _, None) => Err(Fault::payload("method_name is missing")),
        (Some(module), class, Some(function)) => {
            let (class, function) = match (class, function.split_once('.')) {
                (None, Some((class, function))) => (Some(class.to_owned()), function.to_owned()),
                (class, _) => (class, function),
            };
            callable(&module, class.as_deref(), &function, rules).map(Some)
        }
    }
}

/// A target in one text.
pub(super) fn read(text: &str, rules: &Rules<'_>) -> Result<Target, Fault> {
    if text.trim().is_empty() {
        return Err(Fault::payload(
            "target is empty; it must be a tool's name, or module:function",
        ));
    }
    if let Some((module, rest)) = text.split_once(':') {
        return match rest.split_once('.') {
            Some((class, function)) => callable(module, Some(class), function, rules),
            None => callable(module, None, rest, rules),
        };
    }
    if !text.contains('.') {
        check_name(text, text)?;
        return Ok(Target::Tool(text.to_owned()));
    }
    dotted(text, rules)
}

/// The longest prefix that is a module file is the module; what is left is a function, or a class
/// and a method.
fn dotted(text: &str, rules: &Rules<'_>) -> Result<Target, Fault> {
    let parts: Vec<&str> = text.split('.').collect();
    check_module(text, &parts[..parts.len() - 1], rules)?;
    check_name(parts[parts.len() - 1], text)?;
    let of_files = (1..parts.len()).rev().find(|end| (rules.is_module)(&parts[..*end].join(".")));
    let end = of_files.unwrap_or_else(|| {
        // Perhaps an installed package: by custom a class begins with a capital.
        let class =
            parts.len() > 2 && parts[parts.len() - 2].starts_with(|c: char| c.is_ascii_uppercase());
        parts.len() - if class { 2 } else { 1 }
    });
    match parts[end..] {
        [function] => callable(&parts[..end].join("."), None, function, rules),
        [class, function] => callable(&parts[..end].join("."), Some(class), function, rules),
        _ => Err(Fault::NotAllowed(format!(
            "{} reaches through {}: after the module only a function, or a class and its method, may follow",
            short(text),
            parts[..end].join(".")
        ))),
    }
}

fn callable(
    module: &str,
    class: Option<&str>,
    function: &str,
    rules: &Rules<'_>,
) -> Result<Target, Fault> {
    let whole = match class {
        Some(class) => format!("{module}:{class}.{function}"),
        None => format!("{module}:{function}"),
    };
    check_module(&whole, &module.split('.').collect::<Vec<_>>(), rules)?;
    if let Some(class) = class {
        check_name(class, &whole)?;
    }
    check_name(function, &whole)?;
    Ok(Target::Callable {
        module: module.to_owned(),
        class: class.map(str::to_owned),
        function: function.to_owned(),
    })
}

fn check_module(whole: &str, parts: &[&str], rules: &Rules<'_>) -> Result<(), Fault> {
    for part in parts {
        check_name(part, whole)?;
    }
    let top = parts.first().copied().unwrap_or_default();
    if rules.allowed_modules.iter().any(|allowed| allowed == top) {
        return Ok(());
    }
    Err(Fault::NotAllowed(format!(
        "module {} is not allowed; allowed are {} and what is in them (ALLOWED_MODULES)",
        short(top),
        rules.allowed_modules.join(", ")
    )))
}

/// Whether a name may be that of a package, tool, class or function of users: an ASCII identifier
/// that begins with a letter.
pub fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && name.len() <= MAX_NAME
}

fn check_name(name: &str, whole: &str) -> Result<(), Fault> {
    if is_name(name) {
        return Ok(());
    }
    let part =
        if name.is_empty() { "an empty part".to_owned() } else { format!("{:?}", short(name)) };
    Err(Fault::NotAllowed(format!(
        "{part} in {} is not allowed: names are ASCII letters, digits and _, and begin with a letter",
        short(whole)
    )))
}
