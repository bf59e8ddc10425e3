BEGIN TRANSACTION;
CREATE TABLE annotators (
	id VARCHAR NOT NULL, 
	kind VARCHAR(10) NOT NULL, 
	name VARCHAR NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "annotators" VALUES('bob','model','Bób');
INSERT INTO "annotators" VALUES('ann','human','Ann');
CREATE TABLE answers (
	n INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id VARCHAR(32) NOT NULL, 
	item_id VARCHAR(32) NOT NULL, 
	batch_id VARCHAR(32) NOT NULL, 
	rater_id VARCHAR NOT NULL, 
	"key" VARCHAR(64) NOT NULL, 
	revision SMALLINT NOT NULL, 
	standing BOOLEAN NOT NULL, 
	role VARCHAR(12) NOT NULL, 
	kind VARCHAR(10) NOT NULL, 
	body TEXT NOT NULL, 
	shown VARCHAR NOT NULL, 
	labels TEXT NOT NULL, 
	score DOUBLE, 
	seconds DOUBLE, 
	guideline VARCHAR(32), 
	created VARCHAR NOT NULL, 
	UNIQUE (rater_id, "key"), 
	UNIQUE (id), 
	FOREIGN KEY(item_id) REFERENCES work_items (id), 
	FOREIGN KEY(batch_id) REFERENCES batches (id)
);
CREATE TABLE api_tokens (
	id VARCHAR(32) NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	user_id VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	scopes TEXT NOT NULL, 
	created VARCHAR NOT NULL, 
	expires DOUBLE, 
	used DOUBLE, 
	revoked BOOLEAN NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (hash), 
	FOREIGN KEY(user_id) REFERENCES users (id)
);
CREATE TABLE audit (
	n INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	created VARCHAR NOT NULL, 
	user_id VARCHAR, 
	action VARCHAR(40) NOT NULL, 
	subject VARCHAR NOT NULL, 
	detail TEXT NOT NULL
);
INSERT INTO "audit" VALUES(1,'2026-11-23T09:33:53.067293+00:00',NULL,'add-guideline','5e5086af1562734068e584d78d9653a5','{"title": "Films", "version": 1}');
INSERT INTO "audit" VALUES(2,'2026-11-23T09:33:53.387257+00:00',NULL,'open-batch','45058dc02ce5486eb63538decf5e19d9','{"name": "old", "items": 1}');
INSERT INTO "audit" VALUES(3,'2026-11-23T09:34:04.061977+00:00','person-65352949a060f6fa','join','3549dbecf3e2404bbd303576264ebe00','{"role": "admin"}');
CREATE TABLE batches (
	n INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id VARCHAR(32) NOT NULL, 
	name VARCHAR NOT NULL, 
	spec TEXT NOT NULL, 
	state VARCHAR(10) NOT NULL, 
	created VARCHAR NOT NULL, 
	author VARCHAR, 
	UNIQUE (id)
);
INSERT INTO "batches" VALUES(1,'45058dc02ce5486eb63538decf5e19d9','old','{"name":"old","kind":"comparison","overlap":3,"overlap_share":0.0,"most_answers":5,"gold_share":0.0,"repeat_share":0.0,"random_share":0.25,"lease_seconds":10.0,"guideline":"5e5086af1562734068e584d78d9653a5","deadline":null,"raters":null,"onboarding":null,"pass_mark":null,"turns":6,"round":null}','open','2026-11-23T09:33:53.368942+00:00',NULL);
CREATE TABLE comparisons (
	n INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id VARCHAR NOT NULL, 
	prompt_id VARCHAR(32) NOT NULL, 
	annotator_id VARCHAR NOT NULL, 
	split VARCHAR(10) NOT NULL, 
	created VARCHAR NOT NULL, 
	strength SMALLINT, 
	target DOUBLE, 
	flags TEXT NOT NULL, 
	seconds DOUBLE, 
	guideline VARCHAR, 
	UNIQUE (id), 
	FOREIGN KEY(prompt_id) REFERENCES prompts (id), 
	FOREIGN KEY(annotator_id) REFERENCES annotators (id)
);
INSERT INTO "comparisons" VALUES(1,'ranking','423105a49ae9b5d896b58f4238d5df85','bob','train','2026-02-28T23:59:59.123456+05:45',NULL,NULL,'["harmful advice", "Zeile\r\n\t\"''\\ ; DROP TABLE prompts; -- ☃ 😀 ‮ ́ "]',3.00000000000000044408e-01,'v2');
INSERT INTO "comparisons" VALUES(2,'soft','423105a49ae9b5d896b58f4238d5df85','ann','train','2026-01-01T00:00:00',4,3.33333333333333314829e-01,'[]',NULL,NULL);
CREATE TABLE completions (
	id VARCHAR NOT NULL, 
	prompt_id VARCHAR(32) NOT NULL, 
	text TEXT NOT NULL, 
	finish VARCHAR(10) NOT NULL, 
	source TEXT NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(prompt_id) REFERENCES prompts (id)
);
INSERT INTO "completions" VALUES('k0','423105a49ae9b5d896b58f4238d5df85','Zeile
	"''\ ; DROP TABLE prompts; -- ☃ 😀 ‮ ́ 0','stop','{"model":"policy","checkpoint":"abcd","run":"ppo-1","round":3,"step":200,"seed":7,"sampling":{"temperature":0.7,"stop":["\n",null],"deep":{"x":1e-300}}}');
INSERT INTO "completions" VALUES('k1','423105a49ae9b5d896b58f4238d5df85','Zeile
	"''\ ; DROP TABLE prompts; -- ☃ 😀 ‮ ́ 1','length','{"model":"policy","checkpoint":"abcd","run":"ppo-1","round":3,"step":200,"seed":7,"sampling":{"temperature":0.7,"stop":["\n",null],"deep":{"x":1e-300}}}');
INSERT INTO "completions" VALUES('k2','423105a49ae9b5d896b58f4238d5df85','Zeile
	"''\ ; DROP TABLE prompts; -- ☃ 😀 ‮ ́ 2','length','{"model":"policy","checkpoint":"abcd","run":"ppo-1","round":3,"step":200,"seed":7,"sampling":{"temperature":0.7,"stop":["\n",null],"deep":{"x":1e-300}}}');
INSERT INTO "completions" VALUES('k3','423105a49ae9b5d896b58f4238d5df85','Zeile
	"''\ ; DROP TABLE prompts; -- ☃ 😀 ‮ ́ 3','length','{"model":"policy","checkpoint":"abcd","run":"ppo-1","round":3,"step":200,"seed":7,"sampling":{"temperature":0.7,"stop":["\n",null],"deep":{"x":1e-300}}}');
INSERT INTO "completions" VALUES('13cc8c0ba65a42bba6f7d70301319abb','28cca750b87818bd03eb72a5cc3dfffb','old answer 0','stop','{"model":"secret-model-7b"}');
INSERT INTO "completions" VALUES('c5f2623e36dc4f9b9be457c5e2da52bb','28cca750b87818bd03eb72a5cc3dfffb','old answer 1','stop','{"model":"secret-model-7b"}');
CREATE TABLE deliveries (
	n INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id VARCHAR(32) NOT NULL, 
	webhook_id VARCHAR(32) NOT NULL, 
	event VARCHAR(40) NOT NULL, 
	body TEXT NOT NULL, 
	created DOUBLE NOT NULL, 
	attempts INTEGER NOT NULL, 
	due DOUBLE, 
	status INTEGER, 
	error VARCHAR NOT NULL, history TEXT, 
	UNIQUE (id), 
	FOREIGN KEY(webhook_id) REFERENCES webhooks (id)
);
CREATE TABLE demonstrations (
	n INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id VARCHAR NOT NULL, 
	prompt_id VARCHAR(32) NOT NULL, 
	annotator_id VARCHAR NOT NULL, 
	split VARCHAR(10) NOT NULL, 
	created VARCHAR NOT NULL, 
	text TEXT NOT NULL, 
	UNIQUE (id), 
	FOREIGN KEY(prompt_id) REFERENCES prompts (id), 
	FOREIGN KEY(annotator_id) REFERENCES annotators (id)
);
INSERT INTO "demonstrations" VALUES(1,'demo','8babd8d6fe7dfb02e7064bca51f8ccce','bob','train','2026-02-28T23:59:59.123456+05:45','');
CREATE TABLE drafts (
	item_id VARCHAR(32) NOT NULL, 
	rater_id VARCHAR NOT NULL, 
	body TEXT NOT NULL, 
	saved DOUBLE NOT NULL, 
	PRIMARY KEY (item_id, rater_id), 
	FOREIGN KEY(item_id) REFERENCES work_items (id)
);
INSERT INTO "drafts" VALUES('05d90dbda0974f5dba3bf9ffa3bd1b90','person-0','{"text": "so far"}',1.79542643394108629223e+09);
CREATE TABLE guidelines (
	id VARCHAR(32) NOT NULL, 
	title VARCHAR NOT NULL, 
	version INTEGER NOT NULL, 
	text TEXT NOT NULL, 
	created VARCHAR NOT NULL, 
	author VARCHAR, 
	PRIMARY KEY (id), 
	UNIQUE (title, version)
);
INSERT INTO "guidelines" VALUES('5e5086af1562734068e584d78d9653a5','Films',1,'Prefer the kinder one.','2026-11-23T09:33:53.056017+00:00',NULL);
CREATE TABLE invitations (
	id VARCHAR(32) NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	role VARCHAR(10) NOT NULL, 
	may_export BOOLEAN NOT NULL, 
	note VARCHAR NOT NULL, 
	author VARCHAR, 
	created VARCHAR NOT NULL, 
	expires DOUBLE NOT NULL, 
	used_by VARCHAR, 
	revoked BOOLEAN NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (hash)
);
INSERT INTO "invitations" VALUES('3549dbecf3e2404bbd303576264ebe00','d22e89d2e79bb3d1399d5df203547f9477a440dadabdbd50c0c93e290dfc1636','admin',1,'the first administrator',NULL,'2026-11-23T09:33:54.450380+00:00',1.79551283445041394231e+09,'person-65352949a060f6fa',0);
CREATE TABLE items (
	comparison_id VARCHAR NOT NULL, 
	position SMALLINT NOT NULL, 
	completion_id VARCHAR NOT NULL, 
	rank SMALLINT NOT NULL, 
	place SMALLINT NOT NULL, 
	PRIMARY KEY (comparison_id, position), 
	FOREIGN KEY(comparison_id) REFERENCES comparisons (id), 
	FOREIGN KEY(completion_id) REFERENCES completions (id)
)
 WITHOUT ROWID

;
INSERT INTO "items" VALUES('ranking',0,'k0',2,1);
INSERT INTO "items" VALUES('ranking',1,'k1',1,3);
INSERT INTO "items" VALUES('ranking',2,'k2',2,2);
INSERT INTO "items" VALUES('ranking',3,'k3',4,0);
INSERT INTO "items" VALUES('soft',0,'k0',1,0);
INSERT INTO "items" VALUES('soft',1,'k1',1,1);
CREATE TABLE leases (
	item_id VARCHAR(32) NOT NULL, 
	rater_id VARCHAR NOT NULL, 
	batch_id VARCHAR(32) NOT NULL, 
	state VARCHAR(10) NOT NULL, 
	shown VARCHAR NOT NULL, 
	guideline VARCHAR(32), 
	since DOUBLE NOT NULL, 
	until DOUBLE NOT NULL, 
	PRIMARY KEY (item_id, rater_id), 
	FOREIGN KEY(item_id) REFERENCES work_items (id), 
	FOREIGN KEY(batch_id) REFERENCES batches (id)
);
INSERT INTO "leases" VALUES('05d90dbda0974f5dba3bf9ffa3bd1b90','person-0','45058dc02ce5486eb63538decf5e19d9','held','[0, 1]','5e5086af1562734068e584d78d9653a5',1.79542643346493148806e+09,1.795426443464931488e+09);
CREATE TABLE prompts (
	n INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id VARCHAR(32) NOT NULL, 
	split VARCHAR(10) NOT NULL, 
	body TEXT NOT NULL, 
	UNIQUE (id)
);
INSERT INTO "prompts" VALUES(1,'7825e7775d484eaca27d1af0d5e28ebd','train','{"messages":[{"role":"text","content":"alone"}]}');
INSERT INTO "prompts" VALUES(2,'8babd8d6fe7dfb02e7064bca51f8ccce','train','{"messages":[{"role":"text","content":""}]}');
INSERT INTO "prompts" VALUES(3,'423105a49ae9b5d896b58f4238d5df85','train','{"messages":[{"role":"system","content":""},{"role":"user","content":"Zeile\r\n\t\"''\\ ; DROP TABLE prompts; -- ☃ 😀 ‮ ́ "}]}');
INSERT INTO "prompts" VALUES(4,'28cca750b87818bd03eb72a5cc3dfffb','train','{"messages":[{"role":"user","content":"old?"}]}');
CREATE TABLE ratings (
	n INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id VARCHAR NOT NULL, 
	prompt_id VARCHAR(32) NOT NULL, 
	annotator_id VARCHAR NOT NULL, 
	split VARCHAR(10) NOT NULL, 
	created VARCHAR NOT NULL, 
	completion_id VARCHAR NOT NULL, 
	score SMALLINT NOT NULL, 
	flags TEXT NOT NULL, 
	seconds DOUBLE, 
	guideline VARCHAR, 
	UNIQUE (id), 
	FOREIGN KEY(prompt_id) REFERENCES prompts (id), 
	FOREIGN KEY(annotator_id) REFERENCES annotators (id), 
	FOREIGN KEY(completion_id) REFERENCES completions (id)
);
INSERT INTO "ratings" VALUES(1,'rating','423105a49ae9b5d896b58f4238d5df85','ann','train','2026-02-28T23:59:59.123456+05:45','k0',7,'["opinion"]',1000000000.0,'');
CREATE TABLE remarks (
	n INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	item_id VARCHAR(32) NOT NULL, 
	user_id VARCHAR NOT NULL, 
	kind VARCHAR(10) NOT NULL, 
	text TEXT NOT NULL, 
	created VARCHAR NOT NULL, 
	settled BOOLEAN NOT NULL, 
	FOREIGN KEY(item_id) REFERENCES work_items (id)
);
CREATE TABLE retractions (
	id VARCHAR NOT NULL, 
	created VARCHAR NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE sessions (
	hash VARCHAR(64) NOT NULL, 
	user_id VARCHAR NOT NULL, 
	created DOUBLE NOT NULL, 
	seen DOUBLE NOT NULL, 
	expires DOUBLE NOT NULL, 
	agent VARCHAR NOT NULL, 
	PRIMARY KEY (hash), 
	FOREIGN KEY(user_id) REFERENCES users (id)
);
CREATE TABLE studio_keys (
	name VARCHAR(40) NOT NULL, 
	value VARCHAR NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE throttles (
	"key" VARCHAR(64) NOT NULL, 
	tries INTEGER NOT NULL, 
	until DOUBLE NOT NULL, 
	seen DOUBLE NOT NULL, 
	PRIMARY KEY ("key")
);
CREATE TABLE turns (
	item_id VARCHAR(32) NOT NULL, 
	rater_id VARCHAR NOT NULL, 
	number SMALLINT NOT NULL, 
	body TEXT NOT NULL, 
	shown VARCHAR NOT NULL, 
	chosen SMALLINT, 
	"key" VARCHAR(64), 
	label_id VARCHAR, 
	since DOUBLE NOT NULL, 
	PRIMARY KEY (item_id, rater_id, number), 
	FOREIGN KEY(item_id) REFERENCES work_items (id)
);
CREATE TABLE tutelage_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT tutelage_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "tutelage_version" VALUES('0003');
CREATE TABLE users (
	id VARCHAR NOT NULL, 
	login VARCHAR, 
	name VARCHAR NOT NULL, 
	role VARCHAR(10) NOT NULL, 
	may_export BOOLEAN NOT NULL, 
	language VARCHAR(10) NOT NULL, 
	password VARCHAR NOT NULL, 
	active BOOLEAN NOT NULL, 
	hourly_cost DOUBLE, 
	created VARCHAR NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (login)
);
INSERT INTO "users" VALUES('person-65352949a060f6fa','chief','Chief','admin',1,'en','$argon2id$v=19$m=47104,t=2,p=1$RMRtuYeV6b0+VHBtZ5D3eA$pdDrQ/RcOElAMQdDUMtKivjY6W56V+b2Od0U8VJUxEc',1,NULL,'2026-11-23T09:34:03.867213+00:00');
CREATE TABLE webhooks (
	id VARCHAR(32) NOT NULL, 
	url VARCHAR NOT NULL, 
	secret VARCHAR NOT NULL, 
	events TEXT NOT NULL, 
	author VARCHAR, 
	created VARCHAR NOT NULL, 
	active BOOLEAN NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE work_items (
	n INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id VARCHAR(32) NOT NULL, 
	batch_id VARCHAR(32) NOT NULL, 
	prompt_id VARCHAR(32) NOT NULL, 
	completions TEXT NOT NULL, 
	purpose VARCHAR(10) NOT NULL, 
	gold TEXT, 
	repeat_of VARCHAR(32), 
	rater_id VARCHAR, 
	arm VARCHAR(10) NOT NULL, 
	priority DOUBLE, 
	position DOUBLE NOT NULL, 
	wanted SMALLINT NOT NULL, 
	answered SMALLINT NOT NULL, 
	open BOOLEAN NOT NULL, 
	UNIQUE (id), 
	FOREIGN KEY(batch_id) REFERENCES batches (id), 
	FOREIGN KEY(prompt_id) REFERENCES prompts (id)
);
INSERT INTO "work_items" VALUES(1,'05d90dbda0974f5dba3bf9ffa3bd1b90','45058dc02ce5486eb63538decf5e19d9','28cca750b87818bd03eb72a5cc3dfffb','["13cc8c0ba65a42bba6f7d70301319abb", "c5f2623e36dc4f9b9be457c5e2da52bb"]','ask',NULL,NULL,NULL,'random',NULL,5.55770159992484913402e-01,1,0,1);
CREATE INDEX ix_prompts_split ON prompts (split, n);
CREATE INDEX ix_demonstrations_split ON demonstrations (split, n);
CREATE INDEX ix_demonstrations_annotator ON demonstrations (annotator_id, n);
CREATE INDEX ix_comparisons_split ON comparisons (split, n);
CREATE INDEX ix_comparisons_annotator ON comparisons (annotator_id, n);
CREATE INDEX ix_ratings_split ON ratings (split, n);
CREATE INDEX ix_ratings_annotator ON ratings (annotator_id, n);
CREATE INDEX ix_work_items_queue ON work_items (batch_id, open, position);
CREATE INDEX ix_work_items_purpose ON work_items (batch_id, purpose);
CREATE INDEX ix_leases_rater ON leases (rater_id, state, batch_id);
CREATE INDEX ix_leases_state ON leases (batch_id, state, until);
CREATE INDEX ix_answers_item ON answers (item_id, rater_id, revision);
CREATE INDEX ix_answers_rater ON answers (rater_id, n);
CREATE INDEX ix_answers_batch ON answers (batch_id, n);
CREATE INDEX ix_remarks_item ON remarks (item_id);
CREATE INDEX ix_sessions_user ON sessions (user_id);
CREATE INDEX ix_audit_user ON audit (user_id);
CREATE INDEX ix_deliveries_due ON deliveries (due);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('prompts',4);
INSERT INTO "sqlite_sequence" VALUES('demonstrations',1);
INSERT INTO "sqlite_sequence" VALUES('comparisons',2);
INSERT INTO "sqlite_sequence" VALUES('ratings',1);
INSERT INTO "sqlite_sequence" VALUES('audit',3);
INSERT INTO "sqlite_sequence" VALUES('batches',1);
INSERT INTO "sqlite_sequence" VALUES('work_items',1);
COMMIT;