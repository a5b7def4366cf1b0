() => {
  const player = () => document.querySelector("#recording video, #recording audio");

  document.addEventListener("click", (event) => {
    const clip = event.target.closest("[data-seconds]");
    if (clip && player()) {
      player().currentTime = Number(clip.dataset.seconds);
      player().scrollIntoView({ block: "nearest" });
    }
  });

  // In a row of clips, tab reaches one of them and arrow keys the others.
  document.addEventListener("keydown", (event) => {
    const clip = event.target.closest("[data-seconds]");
    if (!clip) return;
    const clips = [...clip.parentElement.children];
    const place = clips.indexOf(clip);
    const next = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: clips.length - 1 }[event.key];
    if (next === undefined || !clips[next]) return;
    event.preventDefault();
    clip.tabIndex = -1;
    clips[next].tabIndex = 0;
    clips[next].focus();
  });
}
