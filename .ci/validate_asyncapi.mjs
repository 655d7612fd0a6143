// Validate an AsyncAPI document with the official parser: node validate_asyncapi.mjs FILE, beside node_modules.
import { readFileSync } from 'node:fs';
import parser from '@asyncapi/parser';

const { document, diagnostics } = await new parser.Parser().parse(readFileSync(process.argv[2], 'utf8'));
const wrong = diagnostics.filter((one) => one.severity <= 1);
for (const one of wrong) console.error(`${one.path.join('.')}: ${one.message}`);
if (!document || wrong.length) process.exit(1);
console.log(`valid: ${document.channels().all().length} channels, ${document.allMessages().all().length} messages`);
