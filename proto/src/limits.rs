//! Every bound in one place. A bound that is not here is a bug.

/// One release-log entry, bytes of UTF-8 JSON.
pub const LOG_ENTRY_BYTES_MAX: usize = 1024;
/// One postcard frame on a QUIC stream, bytes.
pub const FRAME_BYTES_MAX: usize = 4 << 20;
/// One content-defined chunk, bytes.
pub const CHUNK_BYTES_MAX: usize = 512 << 10;
/// Chunk bytes asked for in one request: bounds what a sender holds in memory for one stream.
pub const CHUNKS_PER_REQUEST_MAX: usize = 64;
/// One file of a model package, bytes.
pub const FILE_BYTES_MAX: u64 = 4 << 30;
/// Files in one model package.
pub const FILES_MAX: usize = 64;
/// A manifest, encoded, bytes. About 40 bytes a chunk.
pub const MANIFEST_BYTES_MAX: usize = 3 << 20;
/// A signed plan, encoded, bytes.
pub const PLAN_BYTES_MAX: usize = 256 << 10;
/// Inputs or outputs of one model, and tensors in one request.
pub const TENSORS_MAX: usize = 64;
/// Dimensions of one tensor.
pub const RANK_MAX: usize = 8;
/// Name of a variant's arithmetic, bytes of printable ASCII: receipts carry it.
pub const NUMERICS_BYTES_MAX: usize = 128;
/// Signatures of one model, and steps of one signature.
pub const SIGNATURES_MAX: usize = 8;
/// Waves of one plan.
pub const WAVES_MAX: usize = 32;
/// Witness nodes of one wave.
pub const WITNESSES_MAX: usize = 256;
/// Reports that prove one step of one model: a quorum of every wave before, and one of the region itself.
pub const EVIDENCE_MAX: usize = WAVES_MAX * WITNESSES_MAX;
/// Nodes in one fleet view.
pub const NODES_MAX: usize = 4096;
/// Models desired in one region.
pub const MODELS_MAX: usize = 256;
/// Lines of a node's report: of each model what serves, what is being made ready, and what is refused.
pub const REPORT_LINES_MAX: usize = 3 * MODELS_MAX;
/// Pairs of model and tenant whose use a node counts apart; further tenants of a model are counted together.
pub const USAGE_ACCOUNTS_MAX: usize = 4 * TENANTS_MAX;
/// Tenants of one fleet.
pub const TENANTS_MAX: usize = 4096;
/// Hashes in one Merkle proof: a tree of 2^63 leaves needs 63, a consistency proof at most twice that.
pub const PROOF_HASHES_MAX: usize = 128;
/// A checkpoint note, bytes of text.
pub const NOTE_BYTES_MAX: usize = 16 << 10;
/// A proof that an entry stands in a log, bytes of text.
pub const PROOF_BYTES_MAX: usize = 32 << 10;
/// Pages about receipts that are read from disk at the same time; more are refused.
pub const RECEIPT_PAGES_MAX: usize = 16;
/// Receipts that are signed together.
pub const RECEIPTS_SIGNED_TOGETHER_MAX: usize = 1024;
/// Answers that wait for their receipt's signature; more are refused.
pub const RECEIPTS_ASKED_MAX: usize = 4096;
/// Receipts that are promised and not on disk yet: at most so many promises can be broken by a power cut. Beyond it none is
/// given.
pub const RECEIPTS_UNWRITTEN_MAX: usize = 65_536;
/// An inference request body on a node, bytes, after decompression.
pub const INFER_BODY_BYTES_MAX: usize = 32 << 20;
/// The JSON part of an inference request, bytes.
pub const INFER_JSON_BYTES_MAX: usize = 16 << 20;
/// How much of a request body a router keeps so that it can be sent once more to another node.
pub const REPLAY_BODY_BYTES_MAX: usize = 4 << 20;
/// The longest request that a router reads whole before it chooses a node by what it says.
pub const CONTENT_BODY_BYTES_MAX: usize = 1 << 20;
/// The longest answer that a router reads whole before it passes on its head, so that it can still ask another node.
pub const ANSWER_HELD_BYTES_MAX: usize = 256 << 10;
/// What all requests of one router together keep for that.
pub const REPLAY_BYTES_TOTAL_MAX: usize = 256 << 20;
/// A name of a model, tenant, region, node or boundary, bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// A table of client prefixes, bytes of text.
pub const PREFIX_TABLE_BYTES_MAX: usize = 64 << 20;
/// Prefixes in one table of client places.
pub const PREFIXES_MAX: usize = 1 << 20;
/// Rows waiting on a node above which routers rather ask the next allowed one.
pub const SPILL_QUEUED_ROWS: u32 = 512;
/// Release-log checkpoints that a part keeps to compare with those of others.
pub const CHECKPOINTS_KEPT: usize = 64;
/// TCP connections to a name server at once; more are dropped.
pub const DNS_TCP_CONNECTIONS_MAX: usize = 256;
/// Queries on one TCP connection to a name server.
pub const DNS_QUERIES_PER_CONNECTION_MAX: usize = 64;
/// What a node says of itself when probed, bytes of JSON.
pub const NODE_STATUS_BYTES_MAX: usize = 256 << 10;
/// Nodes that one router probes at the same time.
pub const PROBES_AT_ONCE_MAX: usize = 64;
/// Nodes that one request is offered to at most, counting those that could not be connected to.
pub const ATTEMPTS_MAX: usize = 4;
/// An error body of a node that a router looks into, bytes.
pub const ERROR_BODY_BYTES_MAX: usize = 64 << 10;

/// A configuration file, trust bundle, certificate chain or key file, bytes.
pub const SETUP_FILE_BYTES_MAX: u64 = 1 << 20;
/// QUIC connections of one listener: every node, router and person of a fleet, with room to reconnect.
pub const QUIC_CONNECTIONS_MAX: usize = 2 * NODES_MAX;
/// QUIC handshakes of one listener that are under way; more are refused.
pub const QUIC_HANDSHAKES_MAX: usize = 256;
/// Streams that one QUIC peer may have open. Memory of a connection is bounded by its windows, not by this.
pub const QUIC_STREAMS_MAX: u32 = 64;
/// Bytes in flight to or from one QUIC peer: about two bandwidth-delay products of 200 Mbit/s at 50 ms.
pub const QUIC_WINDOW_BYTES: u32 = 2_500_000;
/// Client connections of one HTTP listener; more are closed at once.
pub const HTTP_CONNECTIONS_MAX: usize = 4096;
/// Concurrent requests on one HTTP/2 connection.
pub const HTTP_STREAMS_MAX: u32 = 256;
/// The head of one HTTP request, bytes.
pub const HTTP_HEAD_BYTES_MAX: u32 = 32 << 10;
/// Server names that one HTTPS client keeps connections for.
pub const HTTP_CLIENT_NAMES_MAX: usize = NODES_MAX;
/// Spans that wait for their export; more are dropped and counted.
pub const SPANS_WAITING_MAX: usize = 4096;
/// An ONNX file, bytes: protobuf itself ends at 2 GiB.
pub const ONNX_BYTES_MAX: u64 = 2 << 30;
/// Nodes of one model's graph, subgraphs included: the optimiser's time grows with the square of a chain's length.
pub const GRAPH_NODES_MAX: usize = 8192;
/// Messages (nodes, attributes, tensors, dimensions) inside one ONNX file: each costs more memory decoded than in the file.
pub const GRAPH_MESSAGES_MAX: usize = 1 << 18;
/// Elements of one row or fixed batch that a model's input declares.
pub const GRAPH_INPUT_ELEMENTS_MAX: usize = 1 << 24;
/// One tensor inside a model during one run, bytes.
pub const GRAPH_TENSOR_BYTES_MAX: u64 = 512 << 20;
/// Nodes of one tree ensemble as it runs, copies of shared branches included: 16 bytes each.
pub const TREE_NODES_MAX: usize = 1 << 22;
/// Questions that one tree may ask of one row.
pub const TREE_DEPTH_MAX: usize = 4096;
/// Columns of a row that a tree may ask for.
pub const TREE_FEATURES_MAX: usize = 1 << 20;
/// Classes or targets of a tree ensemble or a linear model.
pub const TREE_TARGETS_MAX: usize = 1 << 16;
/// Rows that the engine runs at once; more rows are cut into runs of this many.
pub const RUN_ROWS_MAX: usize = 32;
/// Rows of one call of a model.
pub const CALL_ROWS_MAX: usize = 4096;
/// Memory that an engine thread keeps between runs, bytes: this much for what graphs are run in, and as much each for what chains of
/// convolutions and products of matrices need meanwhile. What a larger run took is given back after it.
pub const RUN_MEMORY_KEPT_MAX: usize = 64 << 20;
/// After so many runs an engine thread gives memory back that none of them needed.
pub const RUNS_PER_SHRINK: u32 = 64;
/// Choices of sizes that one loaded model remembers how to lay out, a few kilobytes each: texts have as many lengths, in runs of some rows.
pub const LAYOUTS_MAX: usize = 256;
/// Execution plans that one loaded model keeps.
pub const PLANS_MAX: usize = 8;
/// Calls of devices that never returned and whose models are gone: each holds a thread until the process ends.
pub const DEVICE_CALLS_LOST_MAX: usize = 8;
/// Pixels along one side of an encoded picture.
pub const IMAGE_SIDE_MAX: u32 = 16_384;
/// Memory that decoding one picture may take, bytes.
pub const IMAGE_DECODE_BYTES_MAX: u64 = 256 << 20;
/// What a checking child process is asked and answers, bytes.
pub const CHECK_JOB_BYTES_MAX: u64 = 32 << 20;
/// One text for a tokenizer, bytes.
pub const TEXT_BYTES_MAX: usize = 256 << 10;
/// A tokenizer or label file of a package, bytes.
pub const STEP_FILE_BYTES_MAX: u64 = 64 << 20;

/// How long a client of a node waits that does not say so, milliseconds.
pub const DEADLINE_MS_DEFAULT: u64 = 30_000;
/// The longest that a client of a node may ask to wait, milliseconds; longer is taken as this.
pub const DEADLINE_MS_MAX: u64 = 300_000;
/// How long a client may take to send the body of an inference request, milliseconds.
pub const INFER_BODY_MS_MAX: u64 = 30_000;
/// Bytes of all request bodies that a node holds at once, as sent and as decompressed; more are refused.
pub const INFER_BODIES_BYTES_MAX: usize = 512 << 20;
/// Requests of one gRPC stream that are answered at the same time; the next one is read when one of them is done.
pub const GRPC_STREAM_REQUESTS_MAX: usize = 32;
/// Calls that watch a node's health; more are refused.
pub const HEALTH_WATCHES_MAX: usize = 256;
/// A gRPC message that asks about servers and models, bytes.
pub const GRPC_PAGE_BYTES_MAX: usize = 64 << 10;
/// A REST body that asks about, or would change, repository and settings, bytes, packed and unpacked.
pub const MANAGE_BODY_BYTES_MAX: usize = 64 << 10;
/// Texts of one call for embeddings.
pub const EMBEDDINGS_MAX: usize = 2048;
/// The body of a generate request, bytes, unpacked.
pub const GENERATE_BODY_BYTES_MAX: usize = 1 << 20;
/// An idempotency key, bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// The address of a webhook, bytes.
pub const WEBHOOK_URL_BYTES_MAX: usize = 1024;
/// Jobs that one page lists.
pub const JOBS_LISTED_MAX: usize = 1000;
/// How often one job is run before it is given up.
pub const JOB_ATTEMPTS_MAX: u32 = 8;
/// How often one webhook is sent before it is given up: over about three hours.
pub const WEBHOOK_ATTEMPTS_MAX: u32 = 15;
/// Webhooks that are being sent at the same time.
pub const WEBHOOKS_AT_ONCE_MAX: usize = 16;
/// How long one webhook may take, name look-up and handshake included, milliseconds.
pub const WEBHOOK_MS_MAX: u64 = 10_000;
/// A line of a batch file, bytes.
pub const BATCH_LINE_BYTES_MAX: usize = 32 << 20;
/// Requests of one batch that wait for their answers.
pub const BATCH_CONCURRENCY_MAX: usize = 256;
/// The id of a person whose data a request carries, bytes of ASCII.
pub const SUBJECT_BYTES_MAX: usize = 128;
/// A body that asks a node to forget answers, bytes, packed and unpacked.
pub const PURGE_BODY_BYTES_MAX: usize = 4 << 10;
/// Purges of one node that wait for those before them; more get 503.
pub const PURGES_WAITING_MAX: usize = 64;
/// Other nodes that one refusal names.
pub const ELSEWHERE_MAX: usize = 4;
/// Other nodes that one node is told of: enough for [`ELSEWHERE_MAX`] of each boundary that its country is in.
pub const NEIGHBOURS_MAX: usize = 8 * ELSEWHERE_MAX;
/// Checkpoints in one gossip request.
pub const GOSSIP_CHECKPOINTS_MAX: usize = 16;

const _: () = assert!(NOTE_BYTES_MAX + 2 * LOG_ENTRY_BYTES_MAX + 45 * PROOF_HASHES_MAX < PROOF_BYTES_MAX);
const _: () = assert!(RECEIPTS_ASKED_MAX < RECEIPTS_UNWRITTEN_MAX);
const _: () = assert!(CHUNK_BYTES_MAX < FRAME_BYTES_MAX);
const _: () = assert!(MANIFEST_BYTES_MAX < FRAME_BYTES_MAX);
const _: () = assert!(PLAN_BYTES_MAX < FRAME_BYTES_MAX);
const _: () = assert!(INFER_JSON_BYTES_MAX <= INFER_BODY_BYTES_MAX);
const _: () = assert!(REPLAY_BODY_BYTES_MAX <= INFER_BODY_BYTES_MAX);
const _: () = assert!(REPLAY_BODY_BYTES_MAX <= REPLAY_BYTES_TOTAL_MAX);
const _: () = assert!(CONTENT_BODY_BYTES_MAX <= REPLAY_BODY_BYTES_MAX);
const _: () = assert!(INFER_BODY_BYTES_MAX * 4 <= INFER_BODIES_BYTES_MAX);
const _: () = assert!(DEADLINE_MS_DEFAULT <= DEADLINE_MS_MAX);
