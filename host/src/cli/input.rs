//! `--input JSON|@FILE`.

use serde_json::{Map, Value};

use super::Usage;

/// A larger input belongs into a file that the handler reads.
const MAX_BYTES: u64 = 8 << 20;

/// Reads an option's value: a JSON object, or `@FILE` that holds one (`@-` is stdin).
pub fn read(option: &str) -> Result<Map<String, Value>, Usage> {
    let (text, place) = match option.strip_prefix('@') {
        None => (option.to_owned(), "--input".to_owned()),
        Some(file) => {
            let text = read_file(file)
                .map_err(|problem| Usage(format!("--input: cannot read {file}: {problem}")))?;
            (text, format!("--input @{file}"))
        }
    };
    match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => {
            Err(Usage(format!("{place}: the input is a JSON object, such as '{{\"count\": 3}}'")))
        }
        Err(error) => Err(Usage(format!(
            "{place}: not JSON: {error}; give an object, such as '{{\"count\": 3}}', or @FILE"
        ))),
    }
}

fn read_file(file: &str) -> Result<String, String> {
    use std::io::Read;
    let mut text = Vec::new();
    let read = match file {
        "-" => std::io::stdin().take(MAX_BYTES + 1).read_to_end(&mut text),
        path => {
            std::fs::File::open(path).and_then(|f| f.take(MAX_BYTES + 1).read_to_end(&mut text))
        }
    };
    read.map_err(|error| error.to_string())?;
    if text.len() as u64 > MAX_BYTES {
        return Err(format!("it has more than {} MiB", MAX_BYTES >> 20));
    }
    String::from_utf8(text).map_err(|_| "it is not UTF-8".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_an_object() {
        assert_eq!(read(r#"{"a": 1}"#).unwrap()["a"], 1);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("input.json");
        std::fs::write(&file, r#"{"b": 2}"#).unwrap();
        assert_eq!(read(&format!("@{}", file.display())).unwrap()["b"], 2);
        std::fs::write(&file, b"{\"b\": \"\xff\"}").unwrap();
        let error = read(&format!("@{}", file.display())).expect_err("not UTF-8").to_string();
        assert!(error.ends_with("it is not UTF-8"), "{error}");
        insta::assert_snapshot!(
            read("[1]").expect_err("a list"),
            @r#"--input: the input is a JSON object, such as '{"count": 3}'"#
        );
        insta::assert_snapshot!(
            read("{a: 1}").expect_err("not JSON"),
            @r#"--input: not JSON: key must be a string at line 1 column 2; give an object, such as '{"count": 3}', or @FILE"#
        );
        insta::assert_snapshot!(
            read("@no/such").expect_err("no file"),
            @"--input: cannot read no/such: No such file or directory (os error 2)"
        );
    }
}
