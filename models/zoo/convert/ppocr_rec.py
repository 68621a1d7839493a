"""PP-OCRv4's recognition of a line of text from operator set 12 to 13; lines are 48 pixels high. Needs onnx.

    python3 ppocr_rec.py --from FOLDER --to model.onnx        FOLDER holds source.onnx
"""

from opset import main

if __name__ == "__main__":
    line = ("x", "x", ["batch", 3, 48, "width"])
    main(__doc__, [line], [("softmax_11.tmp_0", "probabilities", ["batch", "places", 6625])])
