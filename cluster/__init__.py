"""The rig: connecting to Ray, finding devices, placing roles on them, the trainer actors and the coordinator.

The coordinator actor is the only writer of the ledger and takes a generation from its data to its verdict. This
package wraps `trainers` (and, with serving, `serving`) in actors; only `jobs` may import it.
"""
