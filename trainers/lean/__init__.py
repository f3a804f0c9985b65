"""The fast forward and backward of Llama and Qwen2 shapes; knows neither examples nor roles."""
