BEGIN TRANSACTION;
CREATE TABLE annotators (
	id VARCHAR NOT NULL, 
	kind VARCHAR(10) NOT NULL, 
	name VARCHAR NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "annotators" VALUES('bob','model','Bób');
INSERT INTO "annotators" VALUES('ann','human','Ann');
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
CREATE TABLE retractions (
	id VARCHAR NOT NULL, 
	created VARCHAR NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE tutelage_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT tutelage_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "tutelage_version" VALUES('0001');
CREATE INDEX ix_prompts_split ON prompts (split, n);
CREATE INDEX ix_demonstrations_split ON demonstrations (split, n);
CREATE INDEX ix_demonstrations_annotator ON demonstrations (annotator_id, n);
CREATE INDEX ix_comparisons_split ON comparisons (split, n);
CREATE INDEX ix_comparisons_annotator ON comparisons (annotator_id, n);
CREATE INDEX ix_ratings_split ON ratings (split, n);
CREATE INDEX ix_ratings_annotator ON ratings (annotator_id, n);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('prompts',3);
INSERT INTO "sqlite_sequence" VALUES('demonstrations',1);
INSERT INTO "sqlite_sequence" VALUES('comparisons',2);
INSERT INTO "sqlite_sequence" VALUES('ratings',1);
COMMIT;