use super::*;
use crate::plugin::counts::Counts;
use crate::types::Role;

/// Serves the numbers below `count`, each with `width` bytes of padding.
struct Numbers {
    count: usize,
    width: usize,
}

struct Counting {
    at: usize,
    count: usize,
    width: usize,
}

#[async_trait]
impl Documents for Numbers {
    async fn open(&self, _: DocumentQuery) -> Result<Box<dyn DocumentCursor>, DocumentsError> {
        Ok(Box::new(Counting { at: 0, count: self.count, width: self.width }))
    }
}

#[async_trait]
impl DocumentCursor for Counting {
    async fn next(&mut self) -> Result<Option<String>, DocumentsError> {
        self.at += 1;
        Ok((self.at <= self.count).then(|| format!("\"{}\"", "n".repeat(self.width))))
    }
}

fn cursors(count: usize, width: usize, counts: &Counts) -> Cursors {
    let tally = counts.tally(Some(&Role::new("r").expect("valid")));
    let granted = Arc::from(["orders".to_owned()]);
    Cursors::new(Some(Arc::new(Numbers { count, width })), granted, (2, 3 << 20), tally)
}

fn told<T: std::fmt::Debug>(result: Result<T, Refusal>) -> String {
    let refusal = result.expect_err("refused");
    format!("{}: {}", refusal.code, refusal.message)
}

async fn pages(cursors: &mut Cursors, query: &str) -> Vec<usize> {
    let id = cursors.open("orders", query).await.expect("opens");
    let mut lengths = Vec::new();
    while let Some(page) = cursors.next(id).await.expect("reads") {
        lengths.push(serde_json::from_str::<Vec<Value>>(&page).expect("an array").len());
    }
    lengths
}

#[tokio::test]
async fn a_query_comes_in_pages_and_its_cursor_closes_at_the_end() {
    let counts = Counts::default();
    let mut cursors = cursors(5, 1, &counts);
    for (query, wanted) in [
        (r#"{"batch_size": 2}"#, vec![2, 2, 1]),
        (r#"{"batch_size": 5}"#, vec![5]),
        ("{}", vec![5]),
    ] {
        assert_eq!(pages(&mut cursors, query).await, wanted, "{query}");
        assert!(cursors.open.is_empty(), "{query}");
    }
    let id = cursors.open("orders", "{}").await.expect("opens");
    cursors.close(id);
    assert!(told(cursors.next(id).await).starts_with("bad_cursor: there is no open cursor 4;"));
}

#[tokio::test]
async fn a_page_is_bounded_in_bytes_and_a_document_is_too() {
    let counts = Counts::default();
    let mut large = cursors(5, 600 << 10, &counts);
    assert_eq!(pages(&mut large, "{}").await, [2, 2, 1]);
    let mut huge = cursors(1, 4 << 20, &counts);
    let id = huge.open("orders", "{}").await.expect("opens");
    let refused = told(huge.next(id).await);
    assert!(refused.starts_with("result_too_large: a document has 4194306 bytes"), "{refused}");
    assert!(huge.open.is_empty());
}

#[tokio::test]
async fn what_is_not_granted_is_refused_and_counted() {
    let counts = Counts::default();
    let mut cursors = cursors(5, 1, &counts);
    let refused = told(cursors.open("users", "{}").await);
    assert!(refused.starts_with("documents_refused: the collection `users` is not"), "{refused}");
    for _ in 0..2 {
        cursors.open("orders", "{}").await.expect("opens");
    }
    let refused = told(cursors.open("orders", "{}").await);
    assert!(refused.starts_with("cursor_limit: 2 cursors are open"), "{refused}");
    let counted = &counts.snapshot()[&Role::new("r").expect("valid")];
    assert_eq!((counted["documents_refused"], counted["cursor_limit"]), (1, 1));
}

#[test]
fn a_query_is_checked() {
    let query = parse(
        "orders",
        r#"{"filter": {"a": {"$gt": 1}}, "projection": {"a": 1}, "sort": [["b", -1], ["a", 1]],
            "limit": 7, "batch_size": 3}"#,
    )
    .expect("fits");
    assert_eq!(query.sort, [("b".to_owned(), true), ("a".to_owned(), false)]);
    assert_eq!((query.limit, query.batch_size), (NonZeroU32::new(7), 3));
    for text in [
        "[]",
        "{",
        r#"{"query": {}}"#,
        r#"{"batch_size": 0}"#,
        r#"{"batch_size": 10001}"#,
        r#"{"sort": [["a", 2]]}"#,
        r#"{"filter": {"$where": "sleep(1e9)"}}"#,
        r#"{"filter": {"$or": [{"$expr": {"$function": {}}}]}}"#,
        r#"{"projection": {"a": {"$function": {}}}}"#,
    ] {
        assert!(told(parse("orders", text)).starts_with("bad_query: the query "), "{text}");
    }
    assert!(parse("orders", &" ".repeat(MAX_QUERY + 1)).is_err());
}
