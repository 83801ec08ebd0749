//! The page in a real browser (Debian's chromium, headless): it loads from a file without an error and without asking
//! anybody for anything, a record is chosen with the mouse and with keys, and names stay text.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use std::{env, fs, thread};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::evacuation::{GRANTED, hostile, many, one};
use crate::{journals, printed};

/// Longest wait for an answer of the browser; reached only by a failure.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A browser with one page, spoken to through its DevTools pipe.
struct Browser {
    child: Child,
    to: File,
    from: Receiver<Value>,
    session: Option<String>,
    next: u64,
    events: VecDeque<Value>,
    /// Its profile, and the pipes.
    _scratch: TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn chromium() -> String {
    let path = env::var("PATH").unwrap_or_default();
    let found = ["chromium", "chromium-browser", "google-chrome"]
        .iter()
        .flat_map(|name| path.split(':').map(move |place| format!("{place}/{name}")))
        .find(|program| Path::new(program).is_file());
    found.expect("chromium is installed (tools/install does it)")
}

impl Browser {
    fn start() -> Browser {
        let scratch = tempfile::tempdir().unwrap();
        let pipe = |name: &str| {
            let path = scratch.path().join(name);
            assert!(
                Command::new("mkfifo")
                    .arg(&path)
                    .status()
                    .unwrap()
                    .success()
            );
            path
        };
        let (input, output) = (pipe("in"), pipe("out"));
        // It reads commands from descriptor 3 and answers on 4; the shell puts them there.
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(r#"in="$1" out="$2"; shift 2; exec "$@" 3<"$in" 4>"$out""#)
            .arg("sh")
            .args([&input, &output])
            .arg(chromium())
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--disable-dev-shm-usage",
                "--remote-debugging-pipe",
                "--window-size=1280,900",
            ])
            .arg(format!(
                "--user-data-dir={}",
                scratch.path().join("profile").display()
            ))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let to = OpenOptions::new().write(true).open(&input).unwrap();
        let from = File::open(&output).unwrap();
        assert!(
            child.try_wait().unwrap().is_none(),
            "the browser ended at once"
        );
        let (sender, receiver) = channel();
        thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut message = Vec::new();
            while from.read_until(0, &mut message).is_ok_and(|read| read > 0) {
                message.pop();
                let Ok(value) = serde_json::from_slice(&message) else {
                    break;
                };
                message.clear();
                if sender.send(value).is_err() {
                    break;
                }
            }
        });
        let mut browser = Browser {
            child,
            to,
            from: receiver,
            session: None,
            next: 0,
            events: VecDeque::new(),
            _scratch: scratch,
        };
        let target = browser.call("Target.createTarget", &json!({"url": "about:blank"}));
        let target = target["targetId"].clone();
        let attached = browser.call(
            "Target.attachToTarget",
            &json!({"targetId": target, "flatten": true}),
        );
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        browser
    }

    fn receive(&mut self) -> Value {
        self.from
            .recv_timeout(TIMEOUT)
            .expect("the browser answers")
    }

    fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.next += 1;
        let mut request = json!({"id": self.next, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            request["sessionId"] = json!(session);
        }
        let mut bytes = request.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes).unwrap();
        loop {
            let message = self.receive();
            if message["id"] == self.next {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
            self.events.push_back(message);
        }
    }

    /// Loads a page, waits until it is there, and complains of everything that it complains of.
    fn open(&mut self, page: &Path) {
        let url = format!("file://{}", page.display());
        self.events.clear();
        self.call("Page.navigate", &json!({"url": url}));
        while !self
            .events
            .iter()
            .any(|event| event["method"] == "Page.loadEventFired")
        {
            let event = self.receive();
            self.events.push_back(event);
        }
        self.is_quiet();
    }

    /// Nothing went wrong in the page, and nobody was asked for anything.
    fn is_quiet(&mut self) {
        // Whatever was on its way is here after an answer.
        self.evaluate("1");
        for event in &self.events {
            let parameters = &event["params"];
            match event["method"].as_str().unwrap_or_default() {
                "Runtime.exceptionThrown"
                | "Log.entryAdded"
                | "Runtime.consoleAPICalled"
                | "Page.javascriptDialogOpening" => panic!("the page says {event}"),
                "Network.requestWillBeSent" => {
                    let url = parameters["request"]["url"].as_str().unwrap();
                    let is_own = url.starts_with("file://") || url.starts_with("data:");
                    assert!(is_own, "the page asks for {url}");
                }
                _ => {}
            }
        }
    }

    fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "returnByValue": true});
        let result = self.call("Runtime.evaluate", &parameters);
        assert!(
            result["exceptionDetails"].is_null(),
            "{expression}: {result}"
        );
        result["result"]["value"].clone()
    }

    fn text(&mut self, expression: &str) -> String {
        self.evaluate(expression)
            .as_str()
            .unwrap_or_else(|| panic!("{expression}"))
            .to_owned()
    }

    /// A click in the middle of what an expression names.
    fn click(&mut self, element: &str) {
        let middle = self.evaluate(&format!(
            "(() => {{ const e = {element}; e.scrollIntoView({{block: 'center', inline: 'center'}}); \
             const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()"
        ));
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({"type": kind, "x": middle[0], "y": middle[1], "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", &event);
        }
    }

    fn key(&mut self, key: &str, code: u32, text: &str) {
        for kind in ["keyDown", "keyUp"] {
            let mut event =
                json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code});
            if kind == "keyDown" && !text.is_empty() {
                event["text"] = json!(text);
            }
            self.call("Input.dispatchKeyEvent", &event);
        }
    }

    fn prefer(&mut self, scheme: &str) {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", &features);
    }
}

const DETAILS: &str = "document.getElementById('details').innerText";
const HIDDEN: &str = "document.getElementById('details').hidden";
const GROUND: &str = "getComputedStyle(document.body).backgroundColor";

fn page(directory: &Path, journals: &[&str]) -> std::path::PathBuf {
    let mut arguments = vec!["timeline"];
    arguments.extend(journals);
    arguments.extend(["--html", "-o", "page.html"]);
    printed(directory, &arguments);
    fs::canonicalize(directory.join("page.html")).unwrap()
}

#[test]
fn a_record_is_chosen_with_mouse_and_keys() {
    let journals = journals(one(&[GRANTED]));
    let mut browser = Browser::start();
    browser.open(&page(journals.path(), &["a", "b"]));
    assert_eq!(browser.evaluate(HIDDEN), true);

    // The sign of the first decision.
    let hold = "[...document.querySelectorAll('.record')].find(e => e.querySelector('title').textContent.includes('HOLD'))";
    browser.click(&format!("{hold}.querySelector('.sign')"));
    let shown = browser.text(DETAILS);
    for said in [
        "decided",
        "source-granted-in-doubt",
        "web-1",
        "26",
        "\"peer\": \"not-asked\"",
    ] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
    assert_eq!(
        browser.evaluate("document.querySelectorAll('tr.chosen').length"),
        1
    );
    assert!(
        browser
            .text("document.querySelector('tr.chosen').innerText")
            .contains("HOLD")
    );

    // Escape closes, and the focus is where it was.
    browser.key("Escape", 27, "");
    assert_eq!(browser.evaluate(HIDDEN), true);
    assert_eq!(
        browser.evaluate(&format!("document.activeElement === {hold}")),
        true
    );

    // With keys alone, from the begin: one stop in the picture, from there with arrows.
    browser.evaluate("document.activeElement.blur(), window.getSelection().removeAllRanges(), window.scrollTo(0, 0)");
    browser.evaluate("document.querySelector('#find').focus()");
    assert_eq!(
        browser.evaluate("document.querySelectorAll('svg [tabindex=\"0\"]').length"),
        1
    );
    let in_picture = "document.activeElement.closest('svg') !== null";
    let mut stops = 0;
    while browser.evaluate(in_picture) != true {
        stops += 1;
        assert!(stops < 5, "the picture is not reached with Tab");
        browser.key("Tab", 9, "");
    }
    browser.key("Home", 36, "");
    let first = browser.text("document.activeElement.getAttribute('aria-label')");
    for _ in 0..3 {
        browser.key("ArrowRight", 39, "");
    }
    browser.key("ArrowLeft", 37, "");
    let label = browser.text("document.activeElement.getAttribute('aria-label')");
    assert_ne!(label, first);
    assert_eq!(
        browser.evaluate("document.activeElement.getAttribute('role')"),
        "button"
    );
    browser.key("Enter", 13, "\r");
    let record = browser.text("document.activeElement.dataset.record");
    assert_eq!(
        browser.text("document.getElementById('details').dataset.record"),
        record
    );
    let kind = browser.text("document.querySelector('#details dd').textContent");
    assert!(label.contains(&kind), "{label}: {kind}");

    // A row of the list leads to the same.
    browser.click("[...document.querySelectorAll('tr[data-record] button')].find(e => e.textContent === 'migration-granted')");
    assert!(browser.text(DETAILS).contains("migration-granted"));
    browser.is_quiet();
}

#[test]
fn light_and_dark_found_and_printed() {
    let journals = journals(one(&[GRANTED]));
    let mut browser = Browser::start();
    let page = page(journals.path(), &["a", "b"]);
    browser.prefer("light");
    browser.open(&page);
    let light = browser.text(GROUND);
    browser.prefer("dark");
    let dark = browser.text(GROUND);
    assert_ne!(light, dark);
    browser.click("document.getElementById('theme')");
    assert_eq!(
        browser.text(GROUND),
        light,
        "the button goes over to the other one"
    );
    let picture = "getComputedStyle(document.querySelector('svg .ground')).fill";
    assert_eq!(
        browser.text(picture),
        light,
        "the picture goes with the page"
    );

    // Every record has a name for those who do not see it.
    let nameless = "[...document.querySelectorAll('svg .record')].filter(e => !e.getAttribute('aria-label')).length";
    assert_eq!(browser.evaluate(nameless), 0);
    let tree = browser.call("Accessibility.getFullAXTree", &json!({}));
    let named = |node: &&Value| {
        node["role"]["value"] == "button"
            && node["name"]["value"]
                .as_str()
                .is_some_and(|name| name.contains("migration-granted"))
    };
    assert!(
        tree["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .any(|node| named(&node))
    );

    browser.evaluate("(e => { e.value = 'committed'; e.dispatchEvent(new Event('input')); })(document.getElementById('find'))");
    let found = browser.text("document.getElementById('found').textContent");
    assert!(
        found.ends_with("records") && !found.starts_with("0 "),
        "{found}"
    );
    assert!(
        browser
            .evaluate("document.querySelectorAll('svg .dim').length")
            .as_u64()
            .unwrap()
            > 5
    );

    // On paper: light, all of it, no buttons.
    browser.call("Emulation.setEmulatedMedia", &json!({"media": "print"}));
    assert_eq!(
        browser.text("getComputedStyle(document.querySelector('.tools')).display"),
        "none"
    );
    assert_eq!(browser.text(GROUND), "rgb(255, 255, 255)");
    let wide = "document.querySelector('svg').getBoundingClientRect().width <= document.documentElement.clientWidth";
    assert_eq!(browser.evaluate(wide), true);
    browser.is_quiet();
}

#[test]
fn names_do_nothing() {
    let journals = journals(hostile());
    let mut browser = Browser::start();
    browser.open(&page(journals.path(), &["a", "b"]));
    assert_eq!(browser.evaluate("window.hacked === undefined"), true);
    assert_eq!(browser.evaluate("document.scripts.length"), 2);
    assert_eq!(browser.evaluate("document.images.length"), 0);
    assert!(
        browser
            .text("document.querySelector('svg').textContent")
            .contains("<script>alert(1)")
    );
    // Each is chosen once: names go through the script too.
    browser.evaluate("[...document.querySelectorAll('tr[data-record] button')].filter(e => e.textContent === 'job-begun').forEach(e => e.click())");
    assert!(browser.text(DETAILS).contains("job-begun"));
    browser.is_quiet();
}

#[test]
fn an_evacuation_of_two_hundred() {
    let journals = journals(many(200));
    let mut browser = Browser::start();
    browser.open(&page(journals.path(), &["a", "b", "c"]));
    assert_eq!(
        browser.evaluate("document.querySelectorAll('svg [data-group]').length"),
        200
    );
    browser.click("document.querySelector('svg [data-group=\"5\"] .sign')");
    assert!(browser.text(DETAILS).contains("decided"));
    // Nothing of a row lies outside of the picture.
    let outside = "(() => { const s = document.querySelector('svg').getBoundingClientRect(); return \
        [...document.querySelectorAll('svg text')].filter(t => { const r = t.getBoundingClientRect(); \
        return r.left < s.left || r.right > s.right || r.bottom > s.bottom; }).length; })()";
    assert_eq!(browser.evaluate(outside), 0);
    browser.is_quiet();
}
