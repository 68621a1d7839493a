//! Texts that clients send, a row a line, by tokenizers of the two families that sentence embedders come with.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use engine::pre::Tokens;

const TOKENS_MAX: usize = 32;
const MULTIPLE: usize = 16;

/// As BERT's: cleaned, stripped of accents, cut at punctuation, then into the longest known pieces.
const WORDPIECE: &str = r###"{"version":"1.0","added_tokens":[],"normalizer":{"type":"BertNormalizer","clean_text":true,
    "handle_chinese_chars":true,"strip_accents":true,"lowercase":true},"pre_tokenizer":{"type":"BertPreTokenizer"},
    "post_processor":{"type":"BertProcessing","sep":["[SEP]",2],"cls":["[CLS]",1]},"decoder":null,
    "model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":100,
    "vocab":{"[PAD]":0,"[CLS]":1,"[SEP]":2,"[UNK]":3,"the":4,"fleet":5,"run":6,"##s":7,"a":8,"##a":9,"é":10,"中":11,".":12}}}"###;
/// As GPT's: bytes, merged by rank.
const BYTES: &str = r#"{"version":"1.0","added_tokens":[],"normalizer":{"type":"NFC"},
    "pre_tokenizer":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},
    "post_processor":{"type":"BertProcessing","sep":["[SEP]",2],"cls":["[CLS]",1]},"decoder":null,
    "model":{"type":"BPE","unk_token":"[UNK]","fuse_unk":true,"merges":["t h","th e","Ġ the"],
    "vocab":{"[PAD]":0,"[CLS]":1,"[SEP]":2,"[UNK]":3,"t":4,"h":5,"e":6,"Ġ":7,"th":8,"the":9,"Ġthe":10,"a":11}}}"#;

static TOKENIZERS: LazyLock<Vec<Tokens>> = LazyLock::new(|| {
    let of = |json: &&str| Tokens::new(json.as_bytes(), TOKENS_MAX, MULTIPLE).expect("the tokenizer loads");
    [WORDPIECE, BYTES].iter().map(of).collect()
});

fuzz_target!(|data: &[u8]| {
    let rows: Vec<&[u8]> = data.split(|&byte| byte == b'\n').collect();
    for tokens in TOKENIZERS.iter() {
        let Ok(encoded) = tokens.encode(&rows) else {
            assert!(std::str::from_utf8(data).is_err(), "text is refused");
            continue;
        };
        let size = rows.len() * encoded.length;
        assert!(encoded.length <= TOKENS_MAX);
        assert_eq!([encoded.ids.len(), encoded.mask.len(), encoded.types.len()], [size; 3]);
        let counted: i64 = encoded.mask.iter().sum();
        assert_eq!(usize::try_from(counted), Ok(tokens.count(&rows)));
    }
});
