"""open-nsfw (a thin ResNet-50) from operator set 9 to 13, under plain names. Needs onnx.

    python3 open_nsfw.py --from FOLDER --to model.onnx        FOLDER holds source.onnx
"""

from opset import main

if __name__ == "__main__":
    main(__doc__, [("input:0", "input", ["batch", 224, 224, 3])], [("outputs", "scores", ["batch", 2])])
