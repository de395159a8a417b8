
"use strict";
(() => {
	const box = document.getElementById("filter");
	const input = document.getElementById("name");
	const found = document.getElementById("found");
	const rows = [...document.querySelectorAll("tr[data-words]")];
	const arrows = [...document.querySelectorAll(".arrow")];
	const ends = [...document.querySelectorAll(".end")];
	const fits = (element, words) => words.every((w) => element.dataset.words.includes(w));
	const show = () => {
		const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
		let n = 0;
		for (const row of rows) {
			row.hidden = !fits(row, words);
			if (!row.hidden && !row.closest("details")) n++;
		}
		const seen = new Map();
		for (const arrow of arrows) {
			const out = !fits(arrow, words);
			arrow.classList.toggle("out", out);
			const svg = arrow.ownerSVGElement;
			if (!seen.has(svg)) seen.set(svg, new Set());
			if (!out) for (const side of arrow.dataset.ends.split(" ")) seen.get(svg).add(side);
		}
		for (const end of ends) {
			end.classList.toggle("out", !seen.get(end.ownerSVGElement)?.has(end.dataset.side));
		}
		const all = rows.filter((row) => !row.closest("details")).length;
		found.textContent = words.length ? n + " of " + all + " changes" : "";
	};
	const pick = (name) => {
		const text = name.replace(/ \([0-9]+ (person|people)\)$/, "");
		input.value = input.value === text ? "" : text;
		show();
	};
	for (const end of ends) {
		end.setAttribute("role", "button");
		end.setAttribute("tabindex", "0");
		end.setAttribute("aria-label", "Show only " + end.dataset.name);
		end.addEventListener("click", () => pick(end.dataset.name));
		end.addEventListener("keydown", (e) => {
			if (e.key === "Enter" || e.key === " ") {
				e.preventDefault();
				pick(end.dataset.name);
			}
		});
	}
	input.addEventListener("input", show);
	document.addEventListener("keydown", (e) => {
		if (e.key === "Escape" && input.value) {
			input.value = "";
			show();
		}
	});
	addEventListener("beforeprint", () => {
		for (const d of document.querySelectorAll("details")) d.open = true;
	});
	box.hidden = false;
})();
