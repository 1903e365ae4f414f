"""One process that serves one version of one model. Self-contained: Python 3.10 or newer with uvicorn is all it needs.

The node starts it by path, under the interpreter of the model, with the listening socket as an inherited file
descriptor and one line of JSON (see `Settings`) on standard input. A replica whose node dies before that line arrives
ends by itself, so that no replica lives that the node does not know. It imports nothing of prefect_modeldeploy.

What it answers:

    GET  /v2, /v2/health/live, /v2/health/ready                      Open Inference Protocol v2
    GET  /v2/models/{model}[/versions/{version}][/ready]
    POST /v2/models/{model}[/versions/{version}]/infer               tensors in JSON; no binary extension
    POST /predict                                                    any JSON in, any JSON out
    POST /invocations                                                MLflow's body: instances, inputs, dataframe_*

What it serves (`source`):

    model.joblib             An object with `.predict(array)`, as scikit-learn's. `infer` takes one input tensor and
                             offers the outputs predict (default), predict_proba, predict_log_proba, decision_function
                             and transform, as far as the model has them. `/predict` takes rows, bare or under
                             `instances` or `inputs`, and answers {"predictions": [...]}.
    package.module:callable  `callable(value)`. `/predict` passes the parsed JSON body and returns the answer as JSON.
                             `infer` passes {input name: numpy array} and expects {output name: array}, or one array,
                             which is then called `output`. `/invocations` passes the rows as a list. A coroutine
                             function is awaited on the event loop; anything else runs in a thread, `concurrency` of
                             them at a time (1 for a model that is not thread-safe).

An exception inside the model is HTTP 500, a body that cannot be read is 400; both are {"error": text, "type": class}.

Security: loading a joblib file or importing a module runs the code in it. Serve only what you trust.
"""
