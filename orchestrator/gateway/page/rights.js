// What who looks at this page may do, as the gateway says.

import { get } from "./api.js";

export const rights = {
  commands: false,
  members: false,
  models: false,
  upload_bytes: null,
  async learn() {
    Object.assign(rights, await get("/api/fleet/rights"));
  },
};
