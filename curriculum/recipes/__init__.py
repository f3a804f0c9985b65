"""Role recipes: what each voice of the trio learns, at any total and in fixed proportions.

Start at `build_recipe`. `creative`, `logical` and `dialectical` hold the proportions and their
reasons, `grammar` fills the templates of `curriculum/data/recipes/*.toml`. To add a category: write its
templates, give it a proportion. A recipe for another role needs the role first (`ledger.roles`, `curriculum.render`).
"""

from curriculum.recipes.build import build_recipe as build_recipe
