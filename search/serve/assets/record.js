// Records a sound with the microphone; calls `done` with a File.

const LONGEST_RECORDING = 10;

function setUpRecording(button, done, fail) {
  const words = button.textContent;
  let recorder = null;
  // Browsers offer the microphone only to pages of this machine or over HTTPS.
  if (!navigator.mediaDevices || !window.MediaRecorder) { button.hidden = true; return; }
  button.addEventListener("click", async () => {
    if (recorder) { recorder.stop(); return; }
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({audio: {echoCancellation: false, noiseSuppression: false}});
    } catch (error) {
      fail(`The microphone cannot be used: ${error.message}.`);
      return;
    }
    const parts = [];
    recorder = new MediaRecorder(stream);
    recorder.addEventListener("dataavailable", event => parts.push(event.data));
    recorder.addEventListener("stop", () => {
      clearInterval(timer);
      for (const track of stream.getTracks()) track.stop();
      const type = recorder.mimeType;
      recorder = null;
      button.textContent = words;
      button.classList.remove("recording");
      done(new File(parts, "recording", {type: type.replace("video/", "audio/")}));
    });
    recorder.start();
    button.classList.add("recording");
    let left = LONGEST_RECORDING;
    const show = () => { button.textContent = `Stop (${left} s left)`; };
    show();
    const timer = setInterval(() => { left--; show(); if (left <= 0) recorder?.stop(); }, 1000);
  });
}
