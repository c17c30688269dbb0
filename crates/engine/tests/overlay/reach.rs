//! Who reaches whom across hosts.

use crate::cluster::Cluster;
use crate::machines::carries;

#[test]
fn containers_of_a_network_talk_across_hosts() {
    for ipv6_underlay in [false, true] {
        let mut cluster = Cluster::with_underlay(2, ipv6_underlay);
        let net = cluster.network("app", 1, true);
        net.tasks = [(1, 1), (2, 2), (3, 1)].into();
        cluster.tell();
        let net = cluster.networks["app"].clone();
        let [one, two, three] = [1, 2, 3].map(|task| cluster.start(&["app"], task));
        for address in [1, 3]
            .map(|from| (from, net.ipv4(2), net.ipv4(from)))
            .into_iter()
            .chain([1, 3].map(|from| (from, net.ipv6(2), net.ipv6(from))))
        {
            let (from, to, seen) = address;
            let machine = if from == 1 { &one } else { &three };
            assert_eq!(machine.ask(to, 80).unwrap(), ("task2".into(), seen.to_string()));
            assert_eq!(machine.ask_udp(to, 80, 9000).unwrap(), ("task2".into(), seen.to_string()));
            let (_, mut stream) = machine.open(to, 80).unwrap();
            assert!(carries(&mut stream, 3_000_000));
        }
        assert_eq!(two.ask(net.ipv4(1), 80).unwrap().0, "task1");
        assert_eq!(one.ask(net.ipv6(3), 80).unwrap().0, "task3");
        cluster.remove();
    }
}
