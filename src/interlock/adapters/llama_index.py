"""LlamaIndex workflows: state that steps, runs and replicas may share.

`StateStorage` is their interface below `ctx.store`: a `save` goes over what was loaded, so
`edit_state`, `set` and `set_state` lose nothing that another replica wrote.  `StateStore` is what a
workflow is given.  The state of a run is the key `llama-index/state/<run>/<namespace>`.
"""
