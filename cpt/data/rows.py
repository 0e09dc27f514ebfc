"""STUB (lead's, temporary: helper B replaces this file)."""


def prompt_text(p):
    return p if isinstance(p, str) else "\n".join(m["content"] for m in p)


def completion_text(c):
    return c if isinstance(c, str) else c[-1]["content"]


def completion_messages(prompt, text):
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def columns_to_rows(prompts, columns):
    keys = [k for k, v in columns.items() if isinstance(v, list) and len(v) == len(prompts)]
    return [{"prompt": p, **{k: columns[k][i] for k in keys}} for i, p in enumerate(prompts)]
