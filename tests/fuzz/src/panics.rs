use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
    static WATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`; the place of a panic in kdh's code that happened on the way, or of any panic that got out.
///
/// tract's panics do not count while they are caught: that they are is what kdh promises.
pub(crate) fn watch<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !WATCHING.get() {
                return others(info);
            }
            let place = info.location().map_or_else(String::new, |at| format!("{}:{}", at.file(), at.line()));
            LAST.with(|last| {
                // The first is the cause.
                last.borrow_mut().get_or_insert(format!("{place}: {}", message(info.payload())));
            });
        }));
    });
    LAST.with(|last| last.borrow_mut().take());
    WATCHING.set(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    WATCHING.set(false);
    let place = LAST.with(|last| last.borrow_mut().take());
    match (result, place) {
        (Ok(value), None) => Ok(value),
        (Ok(value), Some(place)) if place.contains(".cargo/registry") || place.starts_with("/rustc/") => Ok(value),
        (_, place) => Err(place.unwrap_or_else(|| "a panic without a place".into())),
    }
}

fn message(payload: &dyn std::any::Any) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default()
}
