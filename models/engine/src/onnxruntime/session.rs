//! Models in ONNX Runtime: one environment a process, and for each model as many sessions as calls may run at once.
//!
//! A session is never called by two threads at a time: the maintainers of `ort` found that ONNX Runtime does not bear it, whatever
//! its manual says. Each call runs on the thread that makes it, so that a node's engine threads are all the threads there are.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use ort::environment::Environment;
use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{ArenaExtendStrategy, CPU, CUDA, ExecutionProviderDispatch};
use ort::logging::LogLevel;
use ort::session::{SessionInputValue, SessionOutputs};
use proto::limits::RUN_ROWS_MAX;
use proto::oip::Tensor;

use super::{Library, Provider, RuntimeError, tensors};
use crate::RunError;
use crate::engine::{Call, Engine};
use crate::onnx::Described;

/// The library of this process, once one was loaded, and its environment.
static LOADED: Mutex<Option<(PathBuf, Result<Environment, RuntimeError>)>> = Mutex::new(None);

/// A model in ONNX Runtime. Threads share it; a call takes a session that is free, or waits for one.
pub(crate) struct Session {
    free: Mutex<Vec<ort::session::Session>>,
    returned: Condvar,
}

impl Session {
    /// Loads a model that preflight has passed.
    pub(crate) fn new(onnx: &[u8], provider: Provider, library: &Library) -> Result<Self, RuntimeError> {
        let environment = environment(library)?;
        let count = match provider {
            Provider::Cpu => library.sessions.get(),
            // The device does one after the other, and its memory is dear.
            Provider::Cuda => 1,
        };
        let sessions = (0..count).map(|_| one(&environment, onnx, provider));
        Ok(Self {
            free: Mutex::new(sessions.collect::<Result<_, _>>()?),
            returned: Condvar::new(),
        })
    }

    fn answer(&self, io: &Described, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let given = inputs.iter().map(|tensor| {
            let value = tensors::to_runtime(tensor)?;
            Ok((tensor.name.as_str(), value))
        });
        let given: Vec<(&str, SessionInputValue<'_>)> = given.collect::<Result<_, String>>()?;
        let mut taken = self.take();
        let Some(session) = taken.session.as_mut() else {
            return Err("no session is left".to_owned());
        };
        let made: SessionOutputs<'_> = session.run(given).map_err(|error| told(&error))?;
        let named = io.outputs.iter().map(|spec| {
            let value = made.get(&spec.name);
            let value = value.ok_or_else(|| format!("output `{}` was not made", spec.name))?;
            tensors::from_runtime(&spec.name, value)
        });
        named.collect()
    }

    fn take(&self) -> Taken<'_> {
        let waits = |free: &mut Vec<_>| free.is_empty();
        let mut free = self
            .returned
            .wait_while(lock(&self.free), waits)
            .unwrap_or_else(PoisonError::into_inner);
        Taken {
            session: free.pop(),
            home: self,
        }
    }
}

impl Engine for Session {
    fn any_shape(&self) -> bool {
        true
    }

    fn rows_worth_joining(&self, _: &Described, _: &Call<'_>) -> usize {
        RUN_ROWS_MAX
    }

    /// Runs on the thread that calls.
    fn run(&self, io: &Described, call: &Call<'_>) -> Result<Vec<Tensor>, RunError> {
        self.answer(io, &call.tensors())
            .map_err(|detail| RunError::Engine { detail })
    }
}

/// A session that goes back when the call ends, however it ends.
struct Taken<'a> {
    session: Option<ort::session::Session>,
    home: &'a Session,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        lock(&self.home.free).extend(self.session.take());
        self.home.returned.notify_one();
    }
}

/// What failed, by the node of the graph alone: what follows may quote the request.
fn told(error: &ort::Error) -> String {
    match error.message().split_once("Status Message") {
        Some((node, _)) => node.trim_end().to_owned(),
        None => format!("ONNX Runtime gives {:?}", error.code()),
    }
}

/// Loads the library, if this process has none yet.
fn environment(library: &Library) -> Result<Environment, RuntimeError> {
    let mut loaded = lock(&LOADED);
    if let Some((path, environment)) = loaded.as_ref() {
        if *path == library.path {
            return environment.clone();
        }
        return Err(RuntimeError::Other {
            loaded: path.clone(),
            asked: library.path.clone(),
        });
    }
    let wrong = |why: String| RuntimeError::Library {
        path: library.path.clone(),
        why,
    };
    // The binding asserts what it expects of a library.
    let opened = catch_unwind(AssertUnwindSafe(|| ort::init_from(&library.path)));
    let opened = opened.map_err(|_| wrong("it is not the library that its name says".to_owned()))?;
    let builder = opened.map_err(|e| wrong(e.to_string()))?;
    let built = catch_unwind(AssertUnwindSafe(|| {
        let environment = builder.with_name("meridian").with_telemetry(false).build()?;
        // Its errors are returned; what it would print may quote a request.
        environment.set_log_level(LogLevel::Fatal);
        Ok::<_, ort::Error>(environment)
    }));
    let built = match built {
        Ok(built) => built.map_err(|e| wrong(e.to_string())),
        Err(_) => Err(wrong("it is not the library that its name says".to_owned())),
    };
    *loaded = Some((library.path.clone(), built.clone()));
    built
}

/// One session: one thread, the same bits each time, memory given back after each call.
fn one(environment: &Environment, onnx: &[u8], provider: Provider) -> Result<ort::session::Session, RuntimeError> {
    let builder = || -> ort::Result<_> {
        Ok(ort::session::Session::builder(environment)?
            .with_log_level(LogLevel::Fatal)?
            .with_intra_threads(1)?
            .with_inter_threads(1)?
            .with_parallel_execution(false)?
            .with_deterministic_compute(true)?
            .with_memory_pattern(false)?)
    };
    let refused = |error: &ort::Error| RuntimeError::Refused(bounded(error.message()));
    let builder = builder().map_err(|e| refused(&e))?;
    let builder = builder.with_execution_providers(providers(provider));
    let mut builder = builder.map_err(|e| RuntimeError::Provider {
        provider,
        why: bounded(e.message()),
    })?;
    builder.commit_from_memory(onnx).map_err(|e| refused(&e))
}

/// The provider first, the processor after it for nodes that the provider leaves to it. A provider that cannot start is an error.
fn providers(provider: Provider) -> Vec<ExecutionProviderDispatch> {
    let cpu = CPU::default().with_arena_allocator(false).build();
    match provider {
        Provider::Cpu => vec![cpu],
        Provider::Cuda => {
            // As exact as f32 is, and by algorithms that are chosen by shape alone rather than by a race between them.
            let cuda = CUDA::default()
                .with_tf32(false)
                .with_conv_algorithm_search(ConvAlgorithmSearch::Default)
                .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested);
            vec![cuda.build().error_on_failure(), cpu]
        }
    }
}

fn bounded(text: &str) -> String {
    /// Enough for a cause and the node it names.
    const CHARS_MAX: usize = 600;
    text.chars().take(CHARS_MAX).collect()
}

/// A panic elsewhere must not take the sessions with it: what the lock guards is whole at every moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
