BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0004');
CREATE TABLE arrays (
	id INTEGER NOT NULL, 
	measurement_id INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	"values" BLOB NOT NULL, 
	layer INTEGER, 
	step BIGINT, 
	split TEXT, 
	"where" JSON NOT NULL, 
	CONSTRAINT pk_arrays PRIMARY KEY (id), 
	CONSTRAINT fk_arrays_measurement_id FOREIGN KEY(measurement_id) REFERENCES measurements (id)
);
INSERT INTO "arrays" VALUES(1,1,'load',X'934E554D5059010076007B276465736372273A20273C6934272C2027666F727472616E5F6F72646572273A2046616C73652C20277368617065273A2028382C292C207D2020202020202020202020202020202020202020202020202020202020202020202020202020202020202020202020202020202020202020202020200A0000000001000000020000000300000004000000050000000600000007000000',NULL,NULL,NULL,'{"of":"gates"}');
CREATE TABLE attempts (
	id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	machine_id INTEGER NOT NULL, 
	code_id INTEGER NOT NULL, 
	status TEXT NOT NULL, 
	started_at DATETIME NOT NULL, 
	finished_at DATETIME, 
	error TEXT, 
	traceback TEXT, 
	flops DOUBLE, 
	steps BIGINT, 
	seconds DOUBLE, 
	checkpoint TEXT, 
	checkpoint_sha256 VARCHAR(64), 
	log TEXT, note TEXT, log_tail TEXT, 
	CONSTRAINT pk_attempts PRIMARY KEY (id), 
	CONSTRAINT fk_attempts_trial_id FOREIGN KEY(trial_id) REFERENCES trials (id), 
	CONSTRAINT fk_attempts_machine_id FOREIGN KEY(machine_id) REFERENCES machines (id), 
	CONSTRAINT fk_attempts_code_id FOREIGN KEY(code_id) REFERENCES code_versions (id)
);
INSERT INTO "attempts" VALUES(1,1,1,1,'done','2026-11-27 22:42:41.191673','2026-11-27 22:42:41.193409',NULL,NULL,1000000000000.0,100,1.5,NULL,NULL,'logs/1.txt','halved batches',NULL);
CREATE TABLE claims (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	trial_id INTEGER, 
	layer_id INTEGER, 
	run_id INTEGER NOT NULL, 
	claimed_at DATETIME NOT NULL, 
	progress JSON NOT NULL, 
	CONSTRAINT ck_claims_one_subject CHECK ((trial_id IS NULL) <> (layer_id IS NULL)), 
	CONSTRAINT uq_claims_trial_id UNIQUE (trial_id), 
	CONSTRAINT fk_claims_trial_id FOREIGN KEY(trial_id) REFERENCES trials (id), 
	CONSTRAINT uq_claims_layer_id UNIQUE (layer_id), 
	CONSTRAINT fk_claims_layer_id FOREIGN KEY(layer_id) REFERENCES layers (id), 
	CONSTRAINT fk_claims_run_id FOREIGN KEY(run_id) REFERENCES runs (id)
);
INSERT INTO "claims" VALUES(1,NULL,1,1,'2026-11-27 22:42:41.183315','{}');
CREATE TABLE code_versions (
	id INTEGER NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	first_seen DATETIME NOT NULL, 
	"commit" TEXT, 
	dirty BOOLEAN NOT NULL, 
	diff TEXT NOT NULL, 
	python TEXT NOT NULL, 
	libraries JSON NOT NULL, 
	CONSTRAINT pk_code_versions PRIMARY KEY (id), 
	CONSTRAINT uq_code_versions_hash UNIQUE (hash)
);
INSERT INTO "code_versions" VALUES(1,'972458ca51164faf653ac15ced991bc427f36310d3d5fb23649e1d6251062e40','2026-11-27 22:42:41.109891','0123abcd',0,'','3.11.7','{"torch":"2.6.0"}');
CREATE TABLE components (
	id INTEGER NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	first_seen DATETIME NOT NULL, 
	kind TEXT NOT NULL, 
	name TEXT NOT NULL, 
	family TEXT, 
	summary TEXT NOT NULL, 
	text TEXT NOT NULL, 
	source TEXT, 
	bibtex TEXT, 
	hyper JSON NOT NULL, 
	metrics JSON NOT NULL, 
	main_metric TEXT, 
	source_hash TEXT NOT NULL, 
	source_text TEXT NOT NULL, definitions JSON, display TEXT, 
	CONSTRAINT pk_components PRIMARY KEY (id), 
	CONSTRAINT uq_components_hash UNIQUE (hash)
);
INSERT INTO "components" VALUES(1,'2d2ea74279b7a5f8974e24611bf4b147a0543163efe4d960983d7a5cece06d99','2026-11-27 22:42:41.116820','router','soft_moe',NULL,'','',NULL,NULL,'[]','[]',NULL,'h1','class A: ...','{"SoftMoE":"d1"}',NULL);
INSERT INTO "components" VALUES(2,'486b7e29ee0319f15cd3aae35b789c7e6171ef91d0dad551c0e417f7fd57116e','2026-11-27 22:42:41.124311','suite','accuracy',NULL,'','',NULL,NULL,'[]','[{"better":"higher","meaning":"accuracy","name":"top1","unit":"%"}]',NULL,'h1','…','null',NULL);
CREATE TABLE layer_components (
	layer_id INTEGER NOT NULL, 
	component_id INTEGER NOT NULL, 
	CONSTRAINT pk_layer_components PRIMARY KEY (layer_id, component_id), 
	CONSTRAINT fk_layer_components_layer_id FOREIGN KEY(layer_id) REFERENCES layers (id), 
	CONSTRAINT fk_layer_components_component_id FOREIGN KEY(component_id) REFERENCES components (id)
);
INSERT INTO "layer_components" VALUES(1,1);
CREATE TABLE layers (
	id INTEGER NOT NULL, 
	fingerprint TEXT NOT NULL, 
	created_at DATETIME NOT NULL, 
	description JSON NOT NULL, 
	CONSTRAINT pk_layers PRIMARY KEY (id), 
	CONSTRAINT uq_layers_fingerprint UNIQUE (fingerprint)
);
INSERT INTO "layers" VALUES(1,'l1','2026-11-27 22:42:41.141875','{"data":{"name":"digits"},"experts":{"name":"mlp","num_experts":8,"options":{}},"model":{"name":"vit_tiny_patch16_224","options":{"depth":4}},"router":{"name":"soft_moe","options":{"slots":1}},"seed":0,"train":{"epochs":2}}');
CREATE TABLE machines (
	id INTEGER NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	first_seen DATETIME NOT NULL, 
	name TEXT NOT NULL, 
	system TEXT NOT NULL, 
	processor TEXT NOT NULL, 
	cores INTEGER NOT NULL, 
	threads INTEGER NOT NULL, 
	memory_bytes BIGINT NOT NULL, 
	gpu TEXT, 
	gpu_count INTEGER NOT NULL, 
	gpu_memory_bytes BIGINT, 
	driver TEXT, 
	settings JSON NOT NULL, 
	CONSTRAINT pk_machines PRIMARY KEY (id), 
	CONSTRAINT uq_machines_hash UNIQUE (hash)
);
INSERT INTO "machines" VALUES(1,'3bdc27deb0c7199dd223174b5d519e50533c75ed96a3b5bfc9dc16b5b97252d7','2026-11-27 22:42:41.101479','node1','Linux','EPYC',2,1,8589934592,NULL,0,NULL,NULL,'{}');
CREATE TABLE measurements (
	id INTEGER NOT NULL, 
	suite TEXT NOT NULL, 
	options JSON NOT NULL, 
	source_hash TEXT NOT NULL, 
	attempt_id INTEGER, 
	layer_id INTEGER, 
	machine_id INTEGER NOT NULL, 
	code_id INTEGER NOT NULL, 
	status TEXT NOT NULL, 
	error TEXT, 
	traceback TEXT, 
	seconds DOUBLE, 
	measured_at DATETIME NOT NULL, 
	CONSTRAINT pk_measurements PRIMARY KEY (id), 
	CONSTRAINT ck_measurements_one_subject CHECK ((attempt_id IS NULL) <> (layer_id IS NULL)), 
	CONSTRAINT fk_measurements_attempt_id FOREIGN KEY(attempt_id) REFERENCES attempts (id), 
	CONSTRAINT fk_measurements_layer_id FOREIGN KEY(layer_id) REFERENCES layers (id), 
	CONSTRAINT fk_measurements_machine_id FOREIGN KEY(machine_id) REFERENCES machines (id), 
	CONSTRAINT fk_measurements_code_id FOREIGN KEY(code_id) REFERENCES code_versions (id)
);
INSERT INTO "measurements" VALUES(1,'accuracy','{}','h1',1,NULL,1,1,'done',NULL,NULL,NULL,'2026-11-27 22:42:41.201131');
INSERT INTO "measurements" VALUES(2,'throughput','{}','h1',NULL,1,1,1,'done',NULL,NULL,NULL,'2026-11-27 22:42:41.215240');
CREATE TABLE metrics (
	id INTEGER NOT NULL, 
	measurement_id INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	value DOUBLE, 
	layer INTEGER, 
	step BIGINT, 
	split TEXT, 
	"where" JSON NOT NULL, 
	CONSTRAINT pk_metrics PRIMARY KEY (id), 
	CONSTRAINT fk_metrics_measurement_id FOREIGN KEY(measurement_id) REFERENCES measurements (id)
);
INSERT INTO "metrics" VALUES(1,1,'top1',81.25,NULL,NULL,'test','{}');
INSERT INTO "metrics" VALUES(2,1,'nll',NULL,1,100,NULL,'{}');
INSERT INTO "metrics" VALUES(3,2,'ms',2.5,NULL,NULL,NULL,'{}');
CREATE TABLE runs (
	id INTEGER NOT NULL, 
	study_id INTEGER NOT NULL, 
	command TEXT NOT NULL, 
	host TEXT NOT NULL, 
	pid BIGINT NOT NULL, 
	process_started DOUBLE NOT NULL, 
	jobs INTEGER NOT NULL, 
	started_at DATETIME NOT NULL, 
	heartbeat_at DATETIME NOT NULL, 
	finished_at DATETIME, 
	CONSTRAINT pk_runs PRIMARY KEY (id), 
	CONSTRAINT fk_runs_study_id FOREIGN KEY(study_id) REFERENCES studies (id)
);
INSERT INTO "runs" VALUES(1,1,'run --preset tiny','node1',77,1500000000.0,2,'2026-11-27 22:42:41.166031','2026-11-27 22:42:41.166031',NULL);
CREATE TABLE studies (
	id INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	created_at DATETIME NOT NULL, 
	requested_at DATETIME NOT NULL, 
	request JSON NOT NULL, 
	CONSTRAINT pk_studies PRIMARY KEY (id), 
	CONSTRAINT uq_studies_name UNIQUE (name)
);
INSERT INTO "studies" VALUES(1,'tiny','2026-11-27 22:42:41.125246','2026-11-27 22:42:41.125246','{"preset":"tiny"}');
CREATE TABLE study_layers (
	study_id INTEGER NOT NULL, 
	layer_id INTEGER NOT NULL, 
	requested_at DATETIME NOT NULL, 
	CONSTRAINT pk_study_layers PRIMARY KEY (study_id, layer_id), 
	CONSTRAINT fk_study_layers_study_id FOREIGN KEY(study_id) REFERENCES studies (id), 
	CONSTRAINT fk_study_layers_layer_id FOREIGN KEY(layer_id) REFERENCES layers (id)
);
INSERT INTO "study_layers" VALUES(1,1,'2026-11-27 22:42:41.150852');
CREATE TABLE study_trials (
	study_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	requested_at DATETIME NOT NULL, 
	CONSTRAINT pk_study_trials PRIMARY KEY (study_id, trial_id), 
	CONSTRAINT fk_study_trials_study_id FOREIGN KEY(study_id) REFERENCES studies (id), 
	CONSTRAINT fk_study_trials_trial_id FOREIGN KEY(trial_id) REFERENCES trials (id)
);
INSERT INTO "study_trials" VALUES(1,1,'2026-11-27 22:42:41.147942');
CREATE TABLE trial_components (
	trial_id INTEGER NOT NULL, 
	component_id INTEGER NOT NULL, 
	CONSTRAINT pk_trial_components PRIMARY KEY (trial_id, component_id), 
	CONSTRAINT fk_trial_components_trial_id FOREIGN KEY(trial_id) REFERENCES trials (id), 
	CONSTRAINT fk_trial_components_component_id FOREIGN KEY(component_id) REFERENCES components (id)
);
INSERT INTO "trial_components" VALUES(1,1);
CREATE TABLE trials (
	id INTEGER NOT NULL, 
	fingerprint TEXT NOT NULL, 
	created_at DATETIME NOT NULL, 
	description JSON NOT NULL, 
	parent_id INTEGER, 
	transform TEXT, 
	CONSTRAINT pk_trials PRIMARY KEY (id), 
	CONSTRAINT uq_trials_fingerprint UNIQUE (fingerprint), 
	CONSTRAINT fk_trials_parent_id FOREIGN KEY(parent_id) REFERENCES trials (id)
);
INSERT INTO "trials" VALUES(1,'f1','2026-11-27 22:42:41.134116','{"data":{"name":"digits"},"experts":{"name":"mlp","num_experts":8,"options":{}},"model":{"name":"vit_tiny_patch16_224","options":{"depth":4}},"router":{"name":"soft_moe","options":{"slots":1}},"seed":0,"train":{"epochs":2}}',NULL,NULL);
CREATE INDEX ix_components_name ON components (name);
CREATE INDEX ix_study_trials_trial_id ON study_trials (trial_id);
CREATE INDEX ix_study_layers_layer_id ON study_layers (layer_id);
CREATE INDEX ix_attempts_trial_id ON attempts (trial_id);
CREATE INDEX ix_measurements_layer_id ON measurements (layer_id);
CREATE INDEX ix_measurements_attempt_id ON measurements (attempt_id);
CREATE INDEX ix_metrics_measurement_id ON metrics (measurement_id);
CREATE INDEX ix_arrays_measurement_id ON arrays (measurement_id);
CREATE INDEX ix_runs_study_id ON runs (study_id);
CREATE INDEX ix_claims_run_id ON claims (run_id);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('claims',1);
COMMIT;
