// Loaded before the first paint (and so not a module), because a remembered theme must not flash.
{
  const remembered = localStorage.getItem("luna-theme");
  if (remembered) document.documentElement.dataset.theme = remembered;
}
