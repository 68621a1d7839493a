use std::cell::{Cell, RefCell};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use super::send::Got;
use super::*;

/// Answers with the id; as many times 503 before as told; 400 to `bad`; nothing at all after so many answers.
#[derive(Default)]
struct Fake {
    busy: Cell<u32>,
    asked: RefCell<Vec<String>>,
    answers_max: Option<usize>,
    at_once: Cell<usize>,
    at_once_most: Cell<usize>,
}

impl Ask for Fake {
    async fn ask(&self, body: Bytes) -> Result<Got> {
        let request: serde_json::Value = serde_json::from_slice(&body)?;
        assert_eq!(request["parameters"]["priority"], 5);
        let id = request["id"].as_str().unwrap().to_owned();
        if self.answers_max.is_some_and(|max| self.asked.borrow().len() >= max) {
            std::future::pending::<()>().await;
        }
        self.asked.borrow_mut().push(id.clone());
        self.at_once.set(self.at_once.get() + 1);
        self.at_once_most.set(self.at_once_most.get().max(self.at_once.get()));
        tokio::time::sleep(Duration::from_millis(u64::try_from(id.len())?)).await;
        self.at_once.set(self.at_once.get() - 1);
        let got = |status, text: String| Got {
            status,
            retry_after: None,
            body: text.into(),
        };
        if self.busy.get() > 0 {
            self.busy.set(self.busy.get() - 1);
            let wait = Some(Duration::from_secs(7));
            return Ok(Got {
                retry_after: wait,
                ..got(StatusCode::SERVICE_UNAVAILABLE, String::new())
            });
        }
        if id == "bad" {
            return Ok(got(
                StatusCode::BAD_REQUEST,
                r#"{"error":"a bad one","code":"x"}"#.to_owned(),
            ));
        }
        Ok(got(StatusCode::OK, format!(r#"{{"id":{id:?},"outputs":[]}}"#)))
    }
}

fn options(folder: &Path, ids: &[&str]) -> BatchRun {
    let input = folder.join("in.jsonl");
    let lines = ids.iter().map(|id| format!("{{\"id\":\"{id}\",\"inputs\":[]}}\n"));
    std::fs::write(&input, lines.collect::<String>()).unwrap();
    BatchRun {
        input,
        model: "m".parse().unwrap(),
        version: None,
        output: None,
        endpoint: String::new(),
        ca: PathBuf::new(),
        key: String::new(),
        concurrency: 3,
    }
}

fn ids(summary: &Summary) -> Vec<String> {
    let text = std::fs::read_to_string(&summary.output).unwrap();
    text.lines().map(|line| Ended::read(line).unwrap().id).collect()
}

#[tokio::test(start_paused = true)]
async fn answers_stand_in_the_order_of_the_questions_however_they_came() {
    let folder = tempfile::tempdir().unwrap();
    let asked = ["aaaaaa", "b", "cccc", "dd", "e"];
    let fake = Fake::default();
    let summary = drive(&options(folder.path(), &asked), &fake, false).await.unwrap();
    assert_eq!(
        (summary.answered, summary.failed, ids(&summary)),
        (5, 0, asked.map(str::to_owned).to_vec())
    );
    assert_eq!(fake.at_once_most.get(), 3, "never more than were allowed");
    assert!(!folder.path().join("in.out.jsonl.partial").exists());
}

#[tokio::test(start_paused = true)]
async fn what_was_answered_before_a_kill_is_never_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), &["a", "b", "c", "d", "e"]);
    let killed = Fake {
        answers_max: Some(2),
        ..Fake::default()
    };
    let run = tokio::time::timeout(Duration::from_secs(5), drive(&options, &killed, false));
    assert!(run.await.is_err(), "it waits for the third for ever");
    // The kill came in the middle of a line.
    let partial = folder.path().join("in.out.jsonl.partial");
    let mut text = std::fs::read_to_string(&partial).unwrap();
    assert_eq!(text.lines().count(), 2);
    text += r#"{"id":"c","line":3,"as"#;
    std::fs::write(&partial, text).unwrap();
    let second = Fake::default();
    let summary = drive(&options, &second, false).await.unwrap();
    assert_eq!((summary.skipped, summary.answered), (2, 3));
    assert_eq!(second.asked.borrow().as_slice(), ["c", "d", "e"]);
    assert_eq!(ids(&summary), ["a", "b", "c", "d", "e"]);
    let third = Fake::default();
    assert_eq!(drive(&options, &third, false).await.unwrap().skipped, 5);
    assert!(
        third.asked.borrow().is_empty(),
        "a batch that is done is not asked again either"
    );
}

#[tokio::test(start_paused = true)]
async fn a_full_fleet_is_left_alone_for_as_long_as_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake {
        busy: Cell::new(1),
        ..Fake::default()
    };
    let began = tokio::time::Instant::now();
    let summary = drive(&options(folder.path(), &["a"]), &fake, false).await.unwrap();
    assert_eq!((summary.answered, fake.asked.borrow().len()), (1, 2));
    assert!(began.elapsed() >= Duration::from_secs(7));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_and_asked_again_only_by_the_next_run() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), &["a", "bad", "c"]);
    let fake = Fake::default();
    let summary = drive(&options, &fake, false).await.unwrap();
    assert_eq!((summary.answered, summary.failed, fake.asked.borrow().len()), (2, 1, 3));
    let failure = &summary.failures[0];
    assert_eq!(
        (failure.line, failure.status, failure.error.as_str()),
        (2, 400, "a bad one")
    );
    let again = Fake::default();
    drive(&options, &again, false).await.unwrap();
    assert_eq!(again.asked.borrow().as_slice(), ["bad"]);
}

#[tokio::test]
async fn a_mistake_in_any_line_shows_before_the_first_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), &["a"]);
    std::fs::write(&options.input, "{\"inputs\":[]}\n{}\n").unwrap();
    let fake = Fake::default();
    let error = drive(&options, &fake, false).await.unwrap_err();
    assert!(error.to_string().starts_with("line 2 has no `inputs`"), "{error}");
    assert!(fake.asked.borrow().is_empty());
}
