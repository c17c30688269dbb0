//! Every kind of diagnostic as the reader sees it. Reviewed as prose: would a newcomer know what to do?

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};

use stack_stackfile::{Code, Environment, Files, Source, SourceFile, docker_stack, parse, render_all};

/// A name, and a stack file with something wrong in it, or something to be warned of.
const CASES: &[(&str, &str)] = &[
    // Text
    ("tab_in_indentation", "services:\n\tweb:\n\t\timage: nginx:1\n"),
    ("unclosed_quote", "services:\n  web:\n    image: \"nginx:1\n"),
    ("missing_space_after_colon", "services:\n  web:\n    image:nginx\n    command: x\n"),
    ("colon_in_a_text", "services:\n  web:\n    image: nginx:1\n    command: echo a: b\n"),
    ("wrong_indentation", "services:\n  web:\n    image: nginx:1\n   ports: ['80:80']\n"),
    ("unknown_alias", "services:\n  web: *base\n"),
    ("special_character", "services:\n  web:\n    image: nginx:1\n    user: @daemon\n"),
    ("duplicate_key", "services:\n  web:\n    image: nginx:1\n    image: nginx:2\n"),
    ("too_deep", "x-deep: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[x"),
    (
        "alias_bomb",
        "x-a: &a [1,1,1,1,1,1,1,1,1,1]\nx-b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nx-c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
         x-d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\nx-e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nx-f: [*e,*e,*e,*e,*e,*e]\n",
    ),
    ("number_as_key", "services:\n  8080:\n    image: nginx:1\n"),
    ("a_list_as_file", "- services\n- web\n"),
    ("unknown_tag", "services:\n  web:\n    image: !env IMAGE\n"),
    ("merge_of_a_text", "x-a: &a hello\nservices:\n  web:\n    <<: *a\n    image: nginx:1\n"),
    ("empty_file", "# nothing yet\n"),
    ("no_services", "services: {}\nvolumes: {data: }\n"),
    // Variables
    ("bad_variable", "services: {web: {image: 'nginx:${TAG', command: 'echo ${a.b}'}}\n"),
    ("required_variable", "services: {web: {image: 'nginx:${TAG:?which version of nginx}'}}\n"),
    ("unset_variable", "services: {web: {image: 'nginx:1', labels: {host: $DOMAIN}}}\n"),
    ("dollar_in_password", "services: {web: {image: 'nginx:1', environment: {DB_PASSWORD: pa$word}}}\n"),
    // Keys and types
    ("misspelt_key", "services:\n  web:\n    image: nginx:1\n    enviroment: {A: b}\n    depend_on: [db]\n"),
    ("key_of_another_parent", "services:\n  web:\n    image: nginx:1\n    replicas: 3\n    services: {}\n"),
    ("unknown_top_level_key", "services: {web: {image: 'nginx:1'}}\nservice: {}\nfoo: 1\n"),
    ("text_for_a_list", "services: {web: {image: 'nginx:1', ports: '80:80', cap_add: NET_ADMIN}}\n"),
    ("list_for_a_mapping", "services:\n  - web:\n      image: nginx:1\n"),
    ("text_for_a_mapping", "services: {web: {image: 'nginx:1', deploy: 3, healthcheck: 'curl localhost'}}\n"),
    ("number_for_a_text", "services: {web: {image: 1.10, user: 1000, hostname: 0644}}\n"),
    ("text_for_a_number", "services: {web: {image: 'nginx:1', deploy: {replicas: many}, cpus: half}}\n"),
    (
        "text_for_a_boolean",
        "services: {web: {image: 'nginx:1', init: maybe, depends_on: {a: {condition: service_started, required: 'true'}}}}\n",
    ),
    ("number_as_text", "services: {web: {image: 'nginx:1', environment: {VERSION: 1.10, MASK: 0022, COUNT: 1_000}}}\n"),
    ("old_boolean", "services: {web: {image: 'nginx:1', tty: yes, init: off}}\n"),
    ("nothing_for_a_text", "services:\n  web:\n    image:\n    user:\n"),
    ("missing_key", "services: {web: {image: 'nginx:1', volumes: [{target: /data}], devices: [{target: /dev/x}]}}\n"),
    (
        "not_one_of",
        "services: {web: {image: 'nginx:1', deploy: {update_config: {order: start_first}, mode: replicted}, restart: allways}}\n",
    ),
    ("listed_twice", "services: {web: {image: 'nginx:1', ports: ['80:80', '80:80'], dns: [9.9.9.9, 9.9.9.9]}}\n"),
    ("bad_service_name", "services: {'my web': {image: 'nginx:1'}}\nvolumes: {'a/b': {}}\n"),
    (
        "long_service_name",
        "services: {aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa: {image: 'nginx:1'}}\n",
    ),
    // Small languages
    (
        "bad_ports",
        "services: {web: {image: 'nginx:1', ports: ['http', '80:', '0:80', '70000:80', '80-90:80-81', 'x:80:80', '80/ftp']}}\n",
    ),
    (
        "bad_long_ports",
        "services: {web: {image: 'nginx:1', ports: [{published: 80}, {target: 0}, {target: 80, published: x}, {target: 80, mode: hots}, {target: 80, host_ip: me}, {target: 80, protocol: ip}]}}\n",
    ),
    ("port_range_backwards", "services: {web: {image: 'nginx:1', ports: ['8010-8000:80']}}\n"),
    ("port_taken_twice", "services: {web: {image: 'nginx:1', ports: ['80:80', '80:81']}}\n"),
    (
        "port_of_two_services",
        "services: {a: {image: 'a:1', ports: ['80:80']}, b: {image: 'b:1', ports: ['127.0.0.1:80:81', '80:82/udp']}}\n",
    ),
    ("port_without_quotes", "services:\n  git:\n    image: git:1\n    ports:\n      - 22:22\n"),
    (
        "bad_volumes",
        "services: {web: {image: 'nginx:1', volumes: ['a:/b:ro:x', ':/b', '/a::ro', '/a:b', 'v:/v:rx', '/:/']}}\nvolumes: {v: }\n",
    ),
    ("relative_bind", "services: {web: {image: 'nginx:1', volumes: ['./conf:/etc/conf', '~/x:/x']}}\n"),
    (
        "bad_durations",
        "services: {web: {image: 'nginx:1', stop_grace_period: 10, healthcheck: {test: x, interval: 5 minutes, timeout: -1s, start_period: 3}}}\n",
    ),
    (
        "bad_sizes",
        "services: {web: {image: 'nginx:1', mem_limit: lots, shm_size: 5x, deploy: {resources: {limits: {memory: '-5m'}}}}}\n",
    ),
    (
        "out_of_range",
        "services: {web: {image: 'nginx:1', oom_score_adj: 2000, scale: -1, cpus: -1, pids_limit: -5, deploy: {update_config: {parallelism: -1, max_failure_ratio: 3}}}}\n",
    ),
    (
        "bad_addresses",
        "services: {web: {image: 'nginx:1', dns: [dns.example], extra_hosts: ['db=somewhere', '=1.2.3.4', 'alone']}}\n",
    ),
    ("bad_command_line", "services: {web: {image: 'nginx:1', command: \"echo 'hello\"}}\n"),
    (
        "bad_devices",
        "services: {web: {image: 'nginx:1', devices: ['/dev/a:/dev/b:rw:x', '/dev/a:/dev/b:xyz', 'fuse', 'vendor.com/class=gpu', {source: 'vendor.com/class=gpu', permissions: r}, 'vendor.com/class=']}}\n",
    ),
    (
        "bad_constraints",
        "services: {web: {image: 'nginx:1', deploy: {placement: {constraints: ['node.role = manager', 'node.hostnam == a', 'disk == ssd'], preferences: [{spread: zone}]}}}}\n",
    ),
    (
        "relative_working_dir",
        "services: {web: {image: 'nginx:1', working_dir: srv, tmpfs: [run, '/run:size=x,exec']}}\n",
    ),
    (
        "bad_image_names",
        "services: {a: {image: Nginx}, b: {image: 'nginx:'}, c: {image: 'nginx@sha256:12'}, d: {image: 'a b'}}\n",
    ),
    ("bad_host_name", "services: {web: {image: 'nginx:1', hostname: '-web-'}}\n"),
    ("bad_platform", "services: {web: {image: 'nginx:1', platform: windows/amd64}}\n"),
    ("bad_signal", "services: {web: {image: 'nginx:1', stop_signal: SIGTREM}}\n"),
    (
        "bad_capabilities",
        "services: {web: {image: 'nginx:1', cap_add: [NET_ADMN, CAP_SYS_ADMN], cap_drop: [everything]}}\n",
    ),
    (
        "bad_ulimits",
        "services: {web: {image: 'nginx:1', ulimits: {nofiles: 5, nproc: -7, core: {soft: 2, hard: 1}, cpu: {soft: 1}}}}\n",
    ),
    (
        "bad_security_options",
        "services: {web: {image: 'nginx:1', security_opt: [no-new-priviledges, 'seccomp=absent.json', 'seccomp=bad.json', 'apparmor=', 'label=kind:web_t']}}\n",
    ),
    (
        "bad_health_tests",
        "services: {a: {image: 'a:1', healthcheck: {test: [curl, x]}}, b: {image: 'b:1', healthcheck: {test: [CMD]}}, c: {image: 'c:1', healthcheck: {test: [CMD-SHELL, a, b]}}, d: {image: 'd:1', healthcheck: {test: [CMD, a], disable: true}}, e: {image: 'e:1', healthcheck: {test: [NONE, a]}}}\n",
    ),
    (
        "bad_restart",
        "services: {a: {image: 'a:1', restart: 'on-failure:often'}, b: {image: 'b:1', deploy: {restart_policy: {condition: sometimes}}}}\n",
    ),
    (
        "bad_tmpfs_mode",
        "services: {a: {image: 'a:1', volumes: [{type: tmpfs, target: /x, tmpfs: {mode: rwx}}, {type: tmpfs, target: /y, source: z}]}}\n",
    ),
    (
        "bad_mount_options",
        "services: {a: {image: 'a:1', volumes: [{type: bind, source: /a, target: /a, bind: {propagation: sharde}}, {type: volume, source: v, target: /v, bind: {propagation: slave}}, {type: volume, source: v, target: /w, volume: {subpath: ../x}}, {type: bind, target: /q}, {type: bind, source: /r, target: /r/../s}]}}\nvolumes: {v: }\n",
    ),
    ("nul_in_a_text", "services: {a: {image: 'a:1', command: [\"a\\0b\"], environment: {'': x}}}\n"),
    // Several files
    (
        "extends_unknown_service",
        "services: {base: {image: 'a:1'}, web: {extends: bse}, api: {extends: {service: api, file: lib.yml}}}\n",
    ),
    ("extends_cycle", "services: {a: {extends: b}, b: {extends: c}, c: {extends: a}}\n"),
    ("extends_without_service", "services: {a: {extends: {file: lib.yml}}}\n"),
    ("extends_absent_file", "services: {a: {extends: {file: absent.yml, service: a}}}\n"),
    ("include_absent_file", "include: [absent.yml]\nservices: {a: {image: 'a:1'}}\n"),
    (
        "include_from_the_network",
        "include: ['oci://docker.io/example/app:latest']\nservices: {a: {extends: {file: 'https://example.com/a.yml', service: a}}}\n",
    ),
    ("include_cycle", "include: [cycle.yml]\nservices: {a: {image: 'a:1'}}\n"),
    ("include_conflict", "include: [one.yml, two.yml]\nservices: {a: {image: 'a:1'}}\n"),
    ("error_in_an_included_file", "include: [broken.yml]\nservices: {a: {image: 'a:1'}}\n"),
    ("absent_environment_file", "services: {a: {image: 'a:1', env_file: [absent.env, {path: x.env, format: json}]}}\n"),
    (
        "broken_environment_files",
        "services: {a: {image: 'a:1', env_file: [quote.env, space.env, dollar.env, digit.env]}}\n",
    ),
    ("absent_label_file", "services: {a: {image: 'a:1', label_file: absent.labels}}\n"),
    // The whole
    ("no_image", "services:\n  web:\n    ports: ['80:80']\n  api:\n"),
    ("undefined_network", "services: {a: {image: 'a:1', networks: [frnt, other]}}\nnetworks: {front: }\n"),
    (
        "undefined_volume",
        "services: {a: {image: 'a:1', volumes: ['dta:/data', 'other:/x', {type: volume, source: /srv, target: /y}]}}\nvolumes: {data: }\n",
    ),
    (
        "undefined_dependency",
        "services: {a: {image: 'a:1', depends_on: [bb, cc]}, b: {image: 'b:1'}, debug: {image: 'd:1', profiles: [x]}, c: {image: 'c:1', depends_on: [debug]}}\n",
    ),
    (
        "dependency_cycle",
        "services: {a: {image: 'a:1', depends_on: [b]}, b: {image: 'b:1', depends_on: [c]}, c: {image: 'c:1', depends_on: [a]}}\n",
    ),
    (
        "hooks_and_completion",
        "services: {a: {image: 'a:1', depends_on: {job: {condition: service_completed_successfully}}, post_start: [{user: x}], pre_stop: [{command: x, working_dir: srv}], pre_start: [{command: x}]}, job: {image: 'j:1', restart: always, deploy: {rollback_config: {failure_action: rollback, order: start-first}}}}\n",
    ),
    (
        "network_mode_and_networks",
        "services: {a: {image: 'a:1', network_mode: host, networks: [n], ports: ['80:80']}}\nnetworks: {n: }\n",
    ),
    ("global_with_replicas", "services: {a: {image: 'a:1', scale: 2, deploy: {mode: global, replicas: 3}}}\n"),
    (
        "limits_said_twice",
        "services: {a: {image: 'a:1', mem_limit: 1g, cpus: 1, scale: 2, deploy: {replicas: 3, resources: {limits: {memory: 2g, cpus: 2}}}}}\n",
    ),
    (
        "more_reserved_than_allowed",
        "services: {a: {image: 'a:1', deploy: {resources: {limits: {memory: 1g, cpus: 1}, reservations: {memory: 2g, cpus: 2}}}}}\n",
    ),
    (
        "bad_fine_limits",
        "services: {a: {image: 'a:1', cpuset: 2-1, cpu_shares: -1, memswap_limit: 1g, mem_swappiness: 200, device_cgroup_rules: ['c 1:3 rw', 'x 1:3 r'], blkio_config: {weight: 5, weight_device: [{path: sda, weight: 100}, {path: /dev/sda}], device_read_bps: [{path: /dev/sda, rate: 0}, {rate: 1m}]}}, b: {image: 'b:1', mem_limit: 1g, memswap_limit: 512m}}\n",
    ),
    (
        "bad_interfaces",
        "services: {a: {image: 'a:1', networks: {m: {interface_name: wan0}, n: {interface_name: wan0}, o: {interface_name: a_name_that_is_too_long}, p: {ipv6_address: 10.0.0.1}}}, b: {image: 'b:1', uts: host, hostname: b, volumes: [{type: volume, target: /x, volume: {labels: {a: b}}}]}}\nnetworks: {m: , n: , o: , p: }\n",
    ),
    ("cpu_period_alone", "services: {a: {image: 'a:1', cpu_period: 50000}}\n"),
    ("mounted_twice", "services: {a: {image: 'a:1', volumes: ['v:/x'], tmpfs: /x}}\nvolumes: {v: }\n"),
    (
        "one_container_name_twice",
        "services: {a: {image: 'a:1', container_name: x}, b: {image: 'b:1', container_name: x}}\n",
    ),
    (
        "external_with_driver",
        "services: {a: {image: 'a:1'}}\nvolumes: {v: {external: true, driver: nfs, labels: [a]}, w: {external: {name: x}, name: y}}\n",
    ),
    ("bad_stack_name", "name: My Shop\nservices: {a: {image: 'a:1'}}\n"),
    // Refusals and notes
    ("build", "services:\n  web:\n    build: .\n"),
    (
        "device_requests",
        "services: {a: {image: 'a:1', gpus: [{driver: amd}, {count: 0}, {options: {a: b}}], deploy: {resources: {reservations: {devices: [{capabilities: [tpu]}, {driver: cdi, capabilities: [gpu]}, {driver: cdi, device_ids: ['0'], capabilities: [gpu]}, {device_ids: ['a b'], capabilities: [gpu]}, {count: 5000, capabilities: [gpu]}, {count: 1, device_ids: ['0'], capabilities: [gpu]}, {driver: nvidia}]}}}}}\n",
    ),
    (
        "configs_and_secrets",
        "services: {a: {image: 'a:1', configs: [c, d, e, {source: d, target: /x/}, {source: d, target: ../y}], secrets: [s, {source: t, target: s, mode: rwx, uid: root}, {target: x}]}}\nconfigs: {c: {file: ./c}, d: {content: '{{.Node.Zone}}', template_driver: golang}, e: {file: ./big.bin}}\nsecrets: {s: {environment: S}, t: {external: true, template_driver: jinja}, u: {driver: vault, driver_opts: {a: b}}}\n",
    ),
    (
        "one_host_only",
        "services: {a: {image: 'a:1', network_mode: 'service:b', pid: 'service:b', ipc: shareable, volumes_from: [b], links: [b]}, b: {image: 'b:1'}}\n",
    ),
    (
        "windows_only",
        "services: {a: {image: 'a:1', cpu_count: 2, isolation: hyperv, credential_spec: {file: x}, volumes: [{type: npipe, source: x, target: /y}]}}\n",
    ),
    (
        "dangerous",
        "services: {a: {image: 'a:1', oom_kill_disable: true, cgroup_parent: /x, use_api_socket: true, cpu_rt_runtime: 5}}\n",
    ),
    (
        "of_other_engines",
        "services: {a: {image: 'a:1', gpus: all, runtime: kata, mac_address: '02:42:ac:11:65:43', storage_opt: {size: 0, inodes: 5}, annotations: {a: b}, provider: {type: x}, networks: {n: {link_local_ips: [169.254.1.1], driver_opts: {a: b}}}}}\nnetworks: {n: {internal: true, ipam: {driver: x, config: [{subnet: 10.5.0.0/16, gateway: 10.5.0.1}]}, driver_opts: {a: b}}}\n",
    ),
    (
        "refused_by_value",
        "services: {a: {image: 'a:1', cgroup: hots, userns_mode: keep, volumes: [{type: image, target: /x}, {type: image, source: 'X:1', target: /z}, {type: image, source: 'x:1', target: /w, image: {subpath: ../up}}, {type: bind, source: /y, target: /y, bind: {recursive: readonly}}], pull_policy: daily, deploy: {mode: global-job, endpoint_mode: dnsrr, rollback_config: {order: start-first}}}}\n",
    ),
    (
        "user_namespaces",
        "services:\n  a: {image: 'a:1', userns_mode: private, privileged: true, network_mode: host, pid: host}\n  b: {image: 'b:1', userns_mode: host, privileged: true}\n  c: {image: 'c:1', userns_mode: private}\n",
    ),
    (
        "network_drivers",
        "services: {a: {image: 'a:1'}}\nnetworks: {a: {driver: macvlan}, b: {driver: host}, c: {driver: overlayy}}\n",
    ),
    (
        "network_families",
        "services: {a: {image: 'a:1'}}\nnetworks: {a: {enable_ipv4: false}, b: {enable_ipv4: false, enable_ipv6: true, ipam: {config: [{subnet: 10.5.0.0/16}]}}, c: {ipam: {config: [{subnet: 10.5.0.0/16}, {subnet: 10.6.0.0/16}]}}}\n",
    ),
    (
        "network_options",
        "services: {a: {image: 'a:1'}}\nnetworks: {a: {driver_opts: {com.docker.network.bridge.name: br7, com.docker.network.bridge.enable_icc: 'false', com.docker.network.bridge.enable_ip_masquerade: 'true', com.docker.network.bridge.host_binding_ipv4: 0.0.0.0, parent: eth0, com.docker.network.driver.mtuu: 1400}}}\n",
    ),
    (
        "volume_drivers",
        "services: {a: {image: 'a:1'}}\nvolumes: {a: {driver: rexray}, b: {driver: locl}, c: {driver_opts: {type: nfs, devise: ':/x'}}, e: {driver_opts: {o: bind, device: data}}, f: {driver_opts: {size: 1g}}, d: {driver: local, driver_opts: {}}}\n",
    ),
    (
        "accepted_without_effect",
        "services:\n  a: {image: 'a:1', networks: {n: {aliases: [x]}, m: {aliases: [y]}}, deploy: {endpoint_mode: vip}, depends_on: [b]}\n  b: {image: 'b:1', depends_on: [c]}\n  c: {image: 'c:1'}\nnetworks:\n  m: {driver: overlay, labels: [k=v]}\n  n: {driver: overlay, labels: [k=v]}\n  o: {driver: bridge}\nvolumes:\n  v: {labels: [k=v]}\n  w: {labels: [k=v]}\n",
    ),
    (
        "templates",
        "services: {a: {image: 'a:1', hostname: 'a-{{.Node.Hostname}}', environment: {SLOT: 'slot {{ .Task.Slot }}', FORMAT: '{{.Message}}', OS: '{{.Node.Platform.OS}}'}, volumes: ['/srv/{{.Service.Labels.x}}:/x']}}\n",
    ),
    (
        "our_own_keys",
        "services: {a: {image: 'a:1', ports: [{target: 53, protocol: udp, x-stack-proxy-protocol: v2}, {target: 80, x-stack-proxy-protocol: v1}, {target: 81, x-stack-proxi-protocol: v2}], deploy: {x-stack-session-affinity: client, x-mine: 1}}}\n",
    ),
    ("options_of_a_named_volume", "services: {a: {image: 'a:1', volumes: ['v:/v:z']}}\nvolumes: {v: }\n"),
    (
        "notes",
        "version: '3.8'\nservices: {a: {image: 'a:latest', container_name: x, depends_on: {b: {condition: service_healthy}}, attach: false, develop: {watch: [{path: ., action: rebuild}]}}, b: {image: b}}\nnetworks: {n: {attachable: true}}\n",
    ),
];

/// One byte more than a secret may hold.
const TOO_MUCH: &str = match std::str::from_utf8(&[b'x'; 500 * 1024 + 1]) {
    Ok(text) => text,
    Err(_) => "",
};

fn further_files() -> BTreeMap<String, String> {
    [
        ("lib.yml", "services: {base: {image: 'a:1'}}"),
        ("cycle.yml", "include: [cycle.yml]\nservices: {b: {image: 'b:1'}}"),
        ("one.yml", "services: {b: {image: 'b:1'}}"),
        ("two.yml", "services: {b: {image: 'b:2'}}"),
        ("broken.yml", "services:\n  b:\n    imag: b\n"),
        ("x.env", "A=b"),
        ("big.bin", TOO_MUCH),
        ("bad.json", "[]"),
        ("quote.env", "A=1\nSECRET=\"hunter2\n"),
        ("space.env", "my secret hunter2\n"),
        ("dollar.env", "SECRET=${hunter2!}\n"),
        ("digit.env", "1SECRET=hunter2\n"),
    ]
    .into_iter()
    .map(|(name, text)| (format!("/srv/shop/{name}"), text.to_owned()))
    .collect()
}

fn told(text: &str, reader: &dyn Files) -> (String, BTreeSet<Code>) {
    let files = [SourceFile { name: "app.yml", text }];
    let source = Source { files: &files, directory: "/srv/shop", name: None, profiles: &[], reader };
    let diagnostics = match parse(source, &Environment::default()) {
        Ok(parsed) => parsed.warnings,
        Err(diagnostics) => diagnostics,
    };
    (render_all(&diagnostics), diagnostics.iter().map(|diagnostic| diagnostic.code).collect())
}

#[test]
fn every_diagnostic_reads_well() {
    let reader = further_files();
    for (name, text) in CASES {
        let (told, _) = told(text, &reader);
        assert!(!told.is_empty(), "{name} says nothing");
        assert!(!told.contains("hunter2"), "{name} quotes a secret: {told}");
        insta::assert_snapshot!(*name, told, text);
    }
}

/// What is asked for with `stack check --docker-stack`.
#[test]
fn what_docker_stack_would_not_take_reads_well() {
    let file = |name, text| SourceFile { name, text };
    let files = [
        file("app.yml", "version: \"3.8\"\nservices: {web: {image: 'nginx:1'}}\n"),
        file("none.yml", "services: {web: {image: 'nginx:2'}}\n"),
        file("other.yml", "version: \"3.1\"\nservices: {web: {image: 'nginx:2'}}\n"),
        file("old.yml", "version: '2.1'\nservices: {web: {image: 'nginx:2'}}\n"),
        file("unreadable.yml", "services: ["),
    ];
    insta::assert_snapshot!(render_all(&docker_stack(&files)));
    assert!(docker_stack(&files[..2]).is_empty());
}

#[test]
fn every_code_is_shown_by_a_case() {
    let reader = further_files();
    let shown: BTreeSet<Code> = CASES.iter().flat_map(|(_, text)| told(text, &reader).1).collect();
    // These need a file that is too large to be read as prose.
    let elsewhere = [Code::TooManyProblems, Code::DockerStackVersion, Code::DockerStackVersions];
    let missing: Vec<&Code> =
        Code::ALL.iter().filter(|code| !shown.contains(code) && !elsewhere.contains(code)).collect();
    assert!(missing.is_empty(), "no case shows {missing:?}");
}

#[test]
fn a_flood_of_problems_is_cut_off() {
    let mut text = "services:\n".to_owned();
    for number in 0..1000 {
        text.push_str(&format!("  s{number}: {{imag: x}}\n"));
    }
    let (told, codes) = told(&text, &further_files());
    assert!(codes.contains(&Code::TooManyProblems));
    assert!(told.lines().count() < 2000);
}
