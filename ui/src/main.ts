import "./lib/theme.css";

import { mount } from "svelte";

import App from "./App.svelte";
import { app } from "./lib/app.svelte.ts";
import { theme } from "./lib/theme.svelte.ts";

theme.start();
app.start();
const target = document.getElementById("app");
if (target) mount(App, { target });
